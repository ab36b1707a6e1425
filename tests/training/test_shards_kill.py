"""Trainings from tar shards: killed and resumed, alone and on two processes, they equal one from the folder."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from lab2pix.data.shards import write_shards
from tests.helpers.shard_sets import COUNTS, write_set
from tests.helpers.toy import assert_same_run, jobs
from tests.training.test_interrupts_kill import wait_for_steps

STEPS = 60


def config(format: str, root: Path, workers: int = 0) -> dict[str, Any]:
    data = {"data__format": format, "data__root": str(root), "data__workers": workers}
    return {**data, "train__steps": STEPS, "checkpoint__every": 4, "monitor__sample_every": STEPS}


@pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.xslow)])
def test_killed_run_from_shards_equals_one_from_the_folder(server, size: int, tmp_path: Path) -> None:
    folder, shards = write_set(tmp_path / "folder"), tmp_path / "shards"
    for split in COUNTS:
        write_shards(folder, split, shards, per_shard=2)
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert server.run(*jobs(size, out=str(whole), config=config("folder", folder))) == [0] * size
    for step, workers in ((3, 0), (21, 1)):
        resume = (run / "config.yaml").exists()
        pids = server.start(*jobs(size, out=str(run), config=config("shards", shards, workers), resume=resume))
        wait_for_steps(run, step)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert -signal.SIGKILL in server.wait()
    assert server.run(*jobs(size, out=str(run), config=config("shards", shards), resume=True)) == [0] * size
    assert_same_run(whole, run, STEPS)
