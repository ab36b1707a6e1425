"""Parts of training: sample order, noise, schedule, EMA, checkpoints, devices, log."""

from __future__ import annotations

import errno
import io
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lab2pix.errors import CheckpointError, ConfigError, TrainingError
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import Averaging, Progress, linear_decay
from lab2pix.training import checkpoint as checkpoints
from lab2pix.training.checkpoint import (
    clean_checkpoints,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    prune_checkpoints,
    write_checkpoint,
)
from lab2pix.training.ema import ModelEma
from lab2pix.training.interrupts import TIMEOUT, InterruptHandler
from lab2pix.training.log import RunLog
from lab2pix.training.progress import Display
from lab2pix.training.sampler import SampleRandom, StreamSampler, draw_noise
from lab2pix.training.schedule import total_steps
from lab2pix.training.state import Best, TrainingState, build_state
from lab2pix.utils.distributed import choose_device
from lab2pix.utils.seeding import stable_seed
from tests.helpers.toy import ToyMethod, toy_config

CPU = torch.device("cpu")


def stream(steps: range, **changes: Any) -> list[list[tuple[int, int]]]:
    settings = {"length": 7, "seed": 3, "batch_size": 4, **changes}
    return list(StreamSampler(settings.pop("length"), steps=steps, **settings))


def test_weighted_stream_draws_in_proportion_and_resumes() -> None:
    weights = torch.tensor([1.0, 0.0, 3.0])
    whole = stream(range(300), length=3, batch_size=4, weights=weights)
    drawn = [index for step in whole for _, index in step]
    assert drawn.count(1) == 0
    assert drawn.count(2) / drawn.count(0) == pytest.approx(3, rel=0.2)
    assert stream(range(120, 300), length=3, batch_size=4, weights=weights) == whole[120:]
    assert [epoch for step in whole[:3] for epoch, _ in step] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


@given(
    length=st.integers(1, 9),
    parts=st.integers(1, 3),
    world=st.integers(1, 3),
    part_size=st.integers(1, 3),
    start=st.integers(0, 6),
)
def test_stream_is_the_same_however_it_is_split(
    length: int, parts: int, world: int, part_size: int, start: int
) -> None:
    batch = parts * world * part_size
    whole = [sample for step in stream(range(7), length=length, batch_size=batch) for sample in step]
    for epoch in range(7 * batch // length):
        assert sorted(whole[epoch * length : (epoch + 1) * length]) == [(epoch, index) for index in range(length)]
    split = {"length": length, "batch_size": batch, "accumulate": parts, "world_size": world}
    ranks = [stream(range(start, 7), rank=rank, **split) for rank in range(world)]
    pieces = [ranks[r][s * parts + p] for s in range(7 - start) for r in range(world) for p in range(parts)]
    assert [len(piece) for piece in pieces] == [part_size] * len(pieces)
    assert [sample for piece in pieces for sample in piece] == whole[start * batch :]


def test_stream_depends_on_the_seed() -> None:
    assert stream(range(3)) == stream(range(3))
    assert stream(range(3)) != stream(range(3), seed=4)
    assert Counter(epoch for step in stream(range(7)) for epoch, _ in step) == {0: 7, 1: 7, 2: 7, 3: 7}


def test_batch_that_cannot_be_split_names_one_that_can() -> None:
    with pytest.raises(ConfigError, match=r"train.batch_size=4 .* multiple of 6, such as 6"):
        stream(range(3), world_size=2, accumulate=3)


def test_noise_depends_on_seed_and_position_alone() -> None:
    noise = draw_noise(1, range(4), (5,))
    assert noise.shape == (4, 5)
    assert len(noise.unique()) == 20
    assert torch.equal(noise[2:], draw_noise(1, range(2, 4), (5,)))
    assert not torch.equal(noise, draw_noise(2, range(4), (5,)))
    assert stable_seed("noise", 1, 2) == 16834677327401657


@pytest.mark.parametrize(("processes", "parts"), [(2, 1), (4, 1), (1, 2), (2, 2)])
def test_random_numbers_of_a_step_do_not_depend_on_processes_and_parts(processes: int, parts: int) -> None:
    def drawn(rank: int, world: int, parts: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield rows and shared numbers of each part, drawn twice."""
        sampler = StreamSampler(7, seed=1, batch_size=4, steps=range(9), accumulate=parts, rank=rank, world_size=world)
        random = SampleRandom(1, 2, sampler.positions(2), torch.device("cpu"))
        for part in range(parts):
            own = random.of_samples(part * sampler.part_size, (part + 1) * sampler.part_size)
            rows = [own.normal(sampler.part_size, 3), own.uniform(sampler.part_size, 1, 2).flatten(1)]
            shared = [own.shared_uniform(5), own.permutation(6)]
            yield torch.cat([*rows, own.normal(sampler.part_size, 3)], 1), torch.cat(shared)

    [(whole, common)] = drawn(0, 1, 1)
    assert len(whole.unique()) == whole.numel()
    pieces = [piece for rank in range(processes) for piece in drawn(rank, processes, parts)]
    assert torch.equal(torch.cat([rows for rows, _ in pieces]), whole)
    assert all(torch.equal(shared, common) for _, shared in pieces)


def test_rows_for_other_than_the_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="1 random rows for 2 samples"):
        SampleRandom(1, 2, range(2), torch.device("cpu")).uniform(1)


@pytest.mark.parametrize(
    ("changes", "samples", "steps"),
    [({"steps": 5}, 100, 5), ({"steps": None, "epochs": 2}, 7, 4), ({"steps": None, "epochs": 3}, 8, 6)],
)
def test_total_steps_from_steps_or_epochs(changes: dict, samples: int, steps: int) -> None:
    config = toy_config(**{f"train__{name}": value for name, value in changes.items()})
    assert total_steps(config.train, samples) == steps


def test_total_steps_wants_one_of_two() -> None:
    with pytest.raises(ConfigError, match="both set"):
        total_steps(toy_config(train__epochs=1).train, 1)
    with pytest.raises(ConfigError, match="neither"):
        total_steps(toy_config(train__steps=None).train, 1)


def test_learning_rate_is_constant_then_falls_to_nothing() -> None:
    def factor(step: int, total: int, fraction: float) -> float:
        return linear_decay(fraction)(Progress(step, total))

    assert [factor(step, 10, 0.5) for step in range(10)] == pytest.approx([1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    assert {factor(step, 10, 0.0) for step in range(10)} == {1.0}
    assert factor(5, 10, 1.0) == pytest.approx(0.5)
    assert factor(0, 1, 1.0) == 1.0


def test_progress_counts_epochs_of_a_set_that_is_no_multiple_of_the_batch() -> None:
    places = [Progress(step, 6, samples=7, batch_size=4) for step in range(6)]
    assert [place.epoch for place in places] == [0, 0, 1, 1, 2, 2]
    assert [place.step_in_epoch for place in places] == [0, 1, 0, 1, 0, 1]
    assert places[0].epochs == 4
    assert (places[0].fraction, places[5].fraction) == (0, 1)


def test_ema_follows_weights_and_copies_buffers() -> None:
    network = nn.Sequential(spectral_norm(nn.Conv2d(2, 2, 3)), nn.BatchNorm2d(2, affine=False))
    average = ModelEma(network, 0.5, Averaging())
    before = network[0].parametrizations.weight.original.detach().clone()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    network(torch.randn(2, 2, 4, 4))
    average.update(network, 0)
    mine = average.network[0].parametrizations.weight
    torch.testing.assert_close(mine.original, before + 0.9)  # early on, at most a tenth stays
    assert torch.equal(mine[0]._u, network[0].parametrizations.weight[0]._u)
    assert torch.equal(average.network[1].running_mean, network[1].running_mean)
    average.update(network, 1000)
    torch.testing.assert_close(mine.original, before + 0.95)
    assert not average.network.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())


def test_ema_averages_buffers_and_keeps_its_decay_where_the_method_says_so() -> None:
    network = nn.BatchNorm2d(2)
    average = ModelEma(network, 0.75, Averaging(buffers="average", warmup=False))
    with torch.no_grad():
        network.running_mean.fill_(4)
        network.weight.fill_(5)
        network.num_batches_tracked.fill_(7)
    average.update(network, 0)
    assert (average.network.running_mean == 1).all()
    assert (average.network.weight == 2).all()
    assert average.network.num_batches_tracked == 1  # 7 / 4, truncated


@pytest.fixture
def state() -> TrainingState:
    torch.manual_seed(0)
    config = toy_config(train__ema_decay=0.9)
    state = build_state(ToyMethod(config, LabelSpace.load("scenes")), CPU)
    state.step = 3
    return state


def test_checkpoint_restores_the_training_state(state: TrainingState, tmp_path: Path) -> None:
    state.seconds, state.best = 1.5, Best("l1", 0.5, 2)
    path = write_checkpoint(tmp_path, state)
    torch.manual_seed(1)
    other = build_state(ToyMethod(state.method.config, state.method.label_space), CPU)
    load_checkpoint(path, other)
    assert (other.step, other.seconds, other.best) == (3, 1.5, Best("l1", 0.5, 2))
    assert torch.equal(state.sampling_generator.last.weight, other.sampling_generator.last.weight)
    for name, network in state.method.networks.items():
        theirs = other.method.networks[name].state_dict()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in network.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("torch.save", OSError(errno.ENOSPC, "No space left on device")),
        ("torch.save", OSError(errno.EDQUOT, "Disk quota exceeded")),
        ("save_tensors", SafetensorError("I/O error: No space left on device (os error 28)")),
    ],
)
def test_full_disk_keeps_the_old_checkpoint(
    state: TrainingState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    def full(*arguments, **options) -> None:
        raise error

    old = write_checkpoint(tmp_path, state)
    content = {path.name: path.read_bytes() for path in old.iterdir()}
    state.step = 4
    with monkeypatch.context() as patch:
        patch.setattr(*((torch, "save") if where == "torch.save" else (checkpoints, "save_tensors")), full)
        with pytest.raises(TrainingError, match=r"step-00000004: the disk is full; step-00000003 is kept"):
            write_checkpoint(tmp_path, state)
    assert list((tmp_path / "checkpoints").iterdir()) == [old]
    assert {path.name: path.read_bytes() for path in old.iterdir()} == content
    assert write_checkpoint(tmp_path, state) == latest_checkpoint(tmp_path)


def test_broken_weights_are_never_written(state: TrainingState, tmp_path: Path) -> None:
    old = write_checkpoint(tmp_path, state)
    state.step = 4
    with torch.no_grad():
        next(state.method.networks["discriminator"].parameters())[0] = float("inf")
    with pytest.raises(TrainingError, match=r"weight 'discriminator.* is not finite after step 4"):
        write_checkpoint(tmp_path, state)
    assert latest_checkpoint(tmp_path) == old


@pytest.mark.slow
def test_latest_few_and_best_stay(state: TrainingState, tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    for step in (1, 2, 3, 10, 100):
        state.step = step
        write_checkpoint(tmp_path, state)
    (tmp_path / "checkpoints" / "step-mine").mkdir()
    (tmp_path / "checkpoints" / ".tmp-step-00000101").mkdir()
    prune_checkpoints(tmp_path, 2, Best("l1", 0.1, 2))
    clean_checkpoints(tmp_path)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000002", "step-00000010", "step-00000100"]
    assert (tmp_path / "checkpoints" / "step-mine").exists()
    assert not (tmp_path / "checkpoints" / ".tmp-step-00000101").exists()


def test_checkpoint_that_does_not_fit_is_refused(state: TrainingState, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, state)
    config = state.method.config
    other = build_state(ToyMethod(config, LabelSpace.load("facades")), CPU)
    with pytest.raises(CheckpointError, match=r"label space 'scenes' of 14 classes, which is not the 'facades' of 12"):
        load_checkpoint(path, other)
    (path / "training.safetensors").write_bytes((path / "training.safetensors").read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"training.safetensors cannot be read"):
        load_checkpoint(path, state)
    (path / "training.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"training.safetensors is missing"):
        load_checkpoint(path, state)


def test_other_network_is_refused(state: TrainingState, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, state)
    state.method.networks["generator"].last = nn.Conv2d(8, 3, 1)
    with pytest.raises(CheckpointError, match="weights of another network"):
        load_checkpoint(path, state)


def test_optimizer_file_executes_nothing(state: TrainingState, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, state)

    class Intruder:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "intruded",)

    torch.save({"step": Intruder()}, path / "optimizer.pt")
    with pytest.raises(CheckpointError, match=r"optimizer.pt cannot be read"):
        load_checkpoint(path, state)
    assert not (tmp_path / "intruded").exists()


def test_choose_device_by_name_and_default() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device().type in ("cpu", "cuda", "mps")
    with pytest.raises(ConfigError, match="no device 'gpu'"):
        choose_device("gpu")
    with pytest.raises(ConfigError, match=r"is not available on this machine; available: .*cpu"):
        choose_device("xpu")


@pytest.mark.slow
def test_processes_wait_for_each_other_before_one_leaves_with_an_error(tmp_path: Path) -> None:
    script = tmp_path / "share.py"
    script.write_text(
        "import os, sys, time\n"
        "from lab2pix.utils.distributed import barrier\n"
        "if os.environ['RANK'] == '1':\n"
        "    time.sleep(3)\n"
        "    open(sys.argv[1], 'w').close()\n"
        "barrier()\n"
        "sys.exit(os.environ['RANK'] == '0')\n"
    )
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*words, str(script), str(tmp_path / "made")], capture_output=True, timeout=120, check=False)
    assert done.returncode == 1
    assert (tmp_path / "made").exists()


def test_log_is_cut_to_the_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\nnonsense\n{"step": 2, "ha')
    log = RunLog(file, 2)
    log.write({"step": 3, "note": "größer"})
    log.close()
    assert [json.loads(line)["step"] for line in file.read_text(encoding="utf-8").splitlines()] == [1, 2, 3]


def test_interrupt_handler_takes_one_signal_and_gives_way_to_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    with InterruptHandler(None) as stop:
        assert stop.reason == 0
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # torchrun's echo of the same Ctrl-C
        assert stop.reason == signal.SIGINT
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 2)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    monkeypatch.undo()
    assert InterruptHandler(1e-9).reason == TIMEOUT
    assert InterruptHandler(60).reason == 0


@pytest.mark.parametrize("terminal", [True, False])
def test_display_shows_rate_losses_and_time_left(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=120)
    monkeypatch.setattr("lab2pix.training.progress.Console", lambda **options: console)
    display = Display(10, 0)
    display.losses({"generator": {"a": 1.0, "b": 0.5}, "discriminator": {"c": 2.0}})
    for step in range(1, 11):
        display.update(step)
    display.close()
    for part in ("10/10", "steps/s", "generator 1.500", "discriminator 2.000", "0:00:00"):
        assert part in written.getvalue()
