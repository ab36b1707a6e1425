"""Compiled runs: weight names, exact resume, two processes, and missing compilers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lab2pix.errors import ConfigError, TrainingError
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import build_method
from lab2pix.training import train
from lab2pix.training.compile import check_compiler, compile_networks, eager_mode
from lab2pix.training.interrupts import translate_errors
from tests.helpers.small_runs import small
from tests.helpers.toy import assert_same_run, jobs, lines, toy_config, weights

COMPILED = {"train__compile": True, "train__precision": "bf16", "train__ema_decay": 0.9, "train__accumulate": 2}
NEEDS_COMPILER = pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler here")


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let the processes of this file share what they compile, and compile in themselves: programs are small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("programs")))
        patch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
        yield


@pytest.mark.xslow
@NEEDS_COMPILER
def test_a_compiled_run_resumes_bit_for_bit(tmp_path: Path, toys) -> None:
    from torch._dynamo.utils import counters

    counters.clear()
    train(toy_config(**COMPILED), tmp_path / "whole")
    assert counters["stats"]["unique_graphs"] >= 2  # both networks are programs
    assert not counters["graph_break"]
    train(toy_config(**COMPILED, train__max_minutes=1e-5), tmp_path / "parts")
    torch._dynamo.reset()  # as a new process would have it
    train(toy_config(**COMPILED), tmp_path / "parts", resume=True)
    mine, theirs = (weights(tmp_path / name, 12) for name in ("whole", "parts"))
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")

    train(toy_config(**{**COMPILED, "train__compile": False}), tmp_path / "plain")
    plain = weights(tmp_path / "plain", 12)
    assert plain.keys() == mine.keys()
    for name, value in plain.items():
        torch.testing.assert_close(mine[name], value, rtol=0, atol=2e-2, msg=name)


@pytest.mark.xslow
@NEEDS_COMPILER
def test_two_compiled_processes_resume_bit_for_bit(server, tmp_path: Path) -> None:
    caches = {name: os.environ[name] for name in os.environ if name.startswith("TORCHINDUCTOR_")}
    config = {key: value for key, value in COMPILED.items() if key != "train__accumulate"}
    out, parts = (str(tmp_path / name) for name in ("whole", "parts"))
    assert server.run(*jobs(2, env=caches, out=out, config=config)) == [0, 0]
    assert server.run(*jobs(2, env=caches, out=parts, config={**config, "train__max_minutes": 1e-5})) == [0, 0]
    assert server.run(*jobs(2, env=caches, out=parts, config=config, resume=True)) == [0, 0]
    assert_same_run(Path(out), Path(parts), 12)


def test_no_compiler_is_said_before_the_first_step(tmp_path: Path, toys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"no C\+\+ compiler here.*set train\.compile=false"):
        train(toy_config(train__compile=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="no-such-compiler"):
        check_compiler(torch.device("cpu"))
    monkeypatch.setattr("lab2pix.training.compile.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="package triton"):
        check_compiler(torch.device("cuda"))


def test_a_compiler_that_fails_is_named() -> None:
    def backend(graph, inputs):
        raise OSError("cannot find omp.h")

    def add(x: Tensor) -> Tensor:
        return x + 1

    with (
        pytest.raises(TrainingError, match=r"torch's compiler failed \(.*cannot find omp\.h.*set train\.compile=false"),
        translate_errors(toy_config(train__compile=True)),
    ):
        torch.compile(add, backend=backend)(torch.zeros(2))


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["v2-small", "v1-small"])
def test_every_weight_is_part_of_one_program(preset: str) -> None:
    method = build_method(small(preset), LabelSpace.load("scenes"), pretrained=False)
    found = [id(parameter) for part in method.compile_targets for parameter in part.parameters()]
    learning = {id(parameter) for network in method.networks.values() for parameter in network.parameters()}
    assert len(found) == len(set(found))
    assert set(found) == learning
    names = {name: list(network.state_dict()) for name, network in method.networks.items()}
    compile_networks(method)
    assert {name: list(network.state_dict()) for name, network in method.networks.items()} == names


@pytest.mark.slow
def test_with_checkpointing_blocks_are_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: compiled.append(module))
    config = small("v2-small", "train.gradient_checkpointing=true")
    method = build_method(config, LabelSpace.load("scenes"), pretrained=False)
    compile_networks(method)
    generator, head, discriminators = method.networks.values()
    assert compiled == [*generator.blocks, head, *discriminators.networks]


@pytest.mark.xslow
def test_pictures_are_drawn_without_programs() -> None:
    made: list[object] = []

    def backend(graph, inputs):
        made.append(graph)
        return graph.forward

    part = nn.Linear(2, 2)
    part.compile(backend=backend, dynamic=False)
    with eager_mode(True):
        part(torch.zeros(1, 2))
    assert made == []
    with eager_mode(False):
        part(torch.zeros(1, 2))
    assert len(made) == 1
