"""Killed processes, stops by signal, and two processes."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from lab2pix.errors import OutputError
from lab2pix.training import train
from lab2pix.training.checkpoint import list_checkpoints
from tests.helpers.toy import assert_same_run, jobs, lines, toy_config, weights

pytestmark = pytest.mark.slow

STEPS = 24
CONFIG = {"train__steps": STEPS, "checkpoint__every": 4, "monitor__sample_every": 8, "train__ema_decay": 0.9}


def assert_same_end(one: Path, other: Path) -> None:
    assert_same_run(one, other, STEPS)
    assert lines(one, "scores") == lines(other, "scores")
    assert [line["step"] for line in lines(one)] == list(range(1, STEPS + 1))
    assert list_checkpoints(one)[-1].name == list_checkpoints(other)[-1].name == f"step-{STEPS:08d}"


def wait_for_steps(run: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while not (run / "log.jsonl").exists() or (run / "log.jsonl").read_text().count('"losses"') < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module", params=[1, 2], ids=["alone", "pair"])
def whole(request: pytest.FixtureRequest, server, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """A run that nobody disturbed, on one process and on two."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert server.run(*jobs(request.param, out=str(run), config=CONFIG)) == [0] * request.param
    return request.param, run


def test_run_killed_at_any_moment_resumes_bit_for_bit(server, whole: tuple[int, Path], tmp_path: Path) -> None:
    size, undisturbed = whole
    run = tmp_path / "run"
    moments = random.Random(size)
    for step in (0, 2, 5, 9, 12, 17):  # about then, wherever the process happens to be
        resume = (run / "config.yaml").exists()
        pids = server.start(*jobs(size, out=str(run), config=CONFIG, resume=resume, delay=0.01))
        if step:
            wait_for_steps(run, step)
        time.sleep(moments.uniform(0, 0.1))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert set(server.wait()) <= {-signal.SIGKILL, 70}  # the other of a pair may notice before it is killed
    resume = (run / "config.yaml").exists()
    assert server.run(*jobs(size, out=str(run), config=CONFIG, resume=resume)) == [0] * size
    assert_same_end(undisturbed, run)
    assert not list((run / "checkpoints").glob(".tmp*"))


def test_run_killed_between_any_two_writes_resumes_bit_for_bit(server, whole: tuple[int, Path], tmp_path: Path) -> None:
    if whole[0] == 2:
        pytest.skip("process 0 alone writes")
    run = tmp_path / "run"
    for die_at in range(1, 40):  # config.yaml, run.json, each file of a checkpoint, its folder, the pruning
        job = {"out": str(run), "config": CONFIG, "resume": (run / "config.yaml").exists()}
        if server.run({**job, "die_at": die_at}) == [0]:
            break
    else:
        assert server.run(job) == [0]
    assert die_at > 15
    assert_same_end(whole[1], run)


def test_sigterm_ends_all_processes_at_one_step(server, whole: tuple[int, Path], tmp_path: Path) -> None:
    size, undisturbed = whole
    run = tmp_path / "run"
    pids = server.start(*jobs(size, out=str(run), config=CONFIG, delay=0.05))
    wait_for_steps(run, 2)
    os.kill(pids[-1], signal.SIGTERM)  # one process alone is told; it must not leave the other behind
    assert server.wait() == [143] * size
    assert server.run(*jobs(size, out=str(run), config=CONFIG, resume=True)) == [0] * size
    assert_same_end(undisturbed, run)


def test_pair_differs_from_one_and_says_so_on_resume(server, whole: tuple[int, Path], tmp_path: Path) -> None:
    if whole[0] == 1:
        pytest.skip("one process is the other case")
    run = tmp_path / "run"
    pids = server.start(*jobs(2, out=str(run), config=CONFIG, delay=0.05))
    wait_for_steps(run, 2)
    os.kill(pids[0], signal.SIGTERM)
    server.wait()
    assert server.run(*jobs(1, out=str(run), config=CONFIG, resume=True)) == [0]
    assert any("started on 2 process(es) and goes on with 1" in line["note"] for line in lines(run, "note"))


def test_one_two_and_four_processes_train_the_same_weights(server, tmp_path: Path) -> None:
    config = {"train__steps": 5, "norm": "instance"}  # batch norm is over the samples of a process
    for size in (1, 2, 4):
        assert server.run(*jobs(size, out=str(tmp_path / str(size)), config=config)) == [0] * size
    alone = {name: tensor for name, tensor in weights(tmp_path / "1", 5).items() if "extra" not in name}
    assert len(alone) > 10
    for size in (2, 4):
        others = weights(tmp_path / str(size), 5)
        # The mean, as Adam makes a step of full size of a gradient that is 0 but for rounding.
        differences = {name: float((tensor - others[name]).abs().mean()) for name, tensor in alone.items()}
        assert max(differences.values()) < 3e-5, differences


def test_second_training_in_one_folder_is_refused(server, toys, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (pid,) = server.start({"out": str(run), "config": CONFIG, "delay": 0.2})
    wait_for_steps(run, 1)
    with pytest.raises(OutputError, match="another process is training in"):
        train(toy_config(**CONFIG), run, resume=True)
    os.kill(pid, signal.SIGTERM)
    assert server.wait() == [143]
