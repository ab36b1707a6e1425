"""Number of threads, how they wait, and available and free processors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lab2pix.utils import threads


def test_waiting_threads_sleep_unless_the_user_says_otherwise() -> None:
    environment: dict[str, str] = {}
    threads.configure_openmp(environment)
    assert (environment["GOMP_SPINCOUNT"], environment["KMP_BLOCKTIME"]) == ("3000", "1")
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        environment = {name: "set"}
        threads.configure_openmp(environment)
        assert environment.pop(name) == "set"
        assert not {"GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & environment.keys()


@pytest.mark.parametrize(
    ("files", "processors"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_quota_of_the_control_group(tmp_path: Path, files: dict[str, str], processors: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert threads._quota(tmp_path, tmp_path / "none") == processors


def test_smallest_quota_of_nested_control_groups_counts(tmp_path: Path) -> None:
    inner = tmp_path / "user.slice/run.scope"
    inner.mkdir(parents=True)
    (tmp_path / "user.slice/cpu.max").write_text("150000 100000")
    (inner / "cpu.max").write_text("max 100000")
    membership = tmp_path / "membership"
    membership.write_text("1:name=systemd:/elsewhere\n0::/user.slice/run.scope\n")
    assert threads._quota(tmp_path, membership) == 2
    (inner / "cpu.max").write_text("50000 100000")
    assert threads._quota(tmp_path, membership) == 1
    membership.write_text("0::/../..\n")
    assert threads._quota(tmp_path, membership) is None


def test_quota_limits_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_quota", lambda: 1)
    environment: dict[str, str] = {}
    threads.configure_openmp(environment)
    assert environment["OMP_NUM_THREADS"] == "1"
    assert threads.available_processors() == 1
    environment = {"OMP_NUM_THREADS": "4"}
    threads.configure_openmp(environment)
    assert environment["OMP_NUM_THREADS"] == "4"


def write_stat(file: Path, *ticks: tuple[int, int]) -> None:
    """Write busy and idle time of each processor as Linux does; the first line is their sum."""
    lines = [f"cpu{number} {busy} 0 0 {idle} 0 0 0 0 0 0" for number, (busy, idle) in enumerate(ticks)]
    file.write_text("\n".join(["cpu 9 0 0 9 0 0 0 0 0 0", *lines, "intr 5"]) + "\n")


@pytest.mark.parametrize(
    ("after", "own", "free"),
    [
        ([(0, 200), (0, 200), (0, 200)], 0.0, 2.0),  # all idle; the third is not ours
        ([(200, 0), (0, 200), (0, 200)], 0.0, 1.0),  # another program has one
        ([(200, 0), (0, 200), (0, 200)], 2.0, 2.0),  # this process had it
        ([(200, 0), (200, 0), (0, 200)], 1.0, 0.5),
        ([(0, 0), (0, 0), (0, 200)], 0.0, None),  # a system that counts nothing
    ],
)
def test_free_processors_are_idle_or_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: list[tuple[int, int]], own: float, free: float | None
) -> None:
    clock = {"wall": 10.0, "own": 5.0}
    monkeypatch.setattr(threads, "_STAT", tmp_path / "stat")
    monkeypatch.setattr(threads, "_affinity", lambda: {0, 1})
    monkeypatch.setattr(threads.time, "monotonic", lambda: clock["wall"])
    monkeypatch.setattr(threads.time, "process_time", lambda: clock["own"])
    before = [(100, 50), (70, 80), (0, 0)]
    write_stat(tmp_path / "stat", *before)
    meter = threads.ProcessorMeter()
    clock.update(wall=12.0, own=5.0 + own)
    both = zip(before, after, strict=True)
    write_stat(tmp_path / "stat", *((busy + more, idle + rest) for (busy, idle), (more, rest) in both))
    assert meter.seconds == 2 and meter.free() == free and meter.seconds == 0


@pytest.mark.parametrize(("free", "count"), [(0.2, 1), (1.4, 1), (1.6, 2), (6.6, 7), (8.0, 8), (9.0, 8)])
def test_threads_are_the_free_processors(monkeypatch: pytest.MonkeyPatch, free: float, count: int) -> None:
    monkeypatch.setattr(threads, "_GIVEN", False)
    monkeypatch.setattr(threads, "available_processors", lambda: 16)
    monkeypatch.setattr(threads.ProcessorMeter, "free", lambda self: free)
    assert threads.choose_threads(8) == count
    monkeypatch.setattr(threads, "_GIVEN", True)
    assert threads.choose_threads(8) == 8


def test_threads_without_counts_of_idle_time_follow_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_GIVEN", False)
    monkeypatch.setattr(threads, "available_processors", lambda: 8)
    monkeypatch.setattr(threads.ProcessorMeter, "free", lambda self: None)
    monkeypatch.setattr(threads.os, "getloadavg", lambda: (5.2, 0.0, 0.0), raising=False)
    assert threads.choose_threads(8) == 3
    monkeypatch.delattr(threads.os, "getloadavg")
    assert threads.choose_threads(8) == 8


def test_torch_has_its_threads_again_at_the_end() -> None:
    before = torch.get_num_threads()
    with threads.limit_threads(before + 1) as most:
        assert (most, torch.get_num_threads()) == (before, before + 1)
        with threads.limit_threads(None, before + 7):  # more than there are here
            assert torch.get_num_threads() == before + 1
        with threads.limit_threads(None, before):
            assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "entry", [["-m", "lab2pix"], ["-c", "from lab2pix.__main__ import main; main()"]], ids=["module", "script"]
)
def test_every_entry_configures_openmp_before_torch_is_loaded(tmp_path: Path, entry: list[str]) -> None:
    # Stands in for torch, which the command imports, and prints what OpenMP would read.
    (tmp_path / "torch.py").write_text("import os\nprint('spins', os.environ.get('GOMP_SPINCOUNT'))\nraise SystemExit")
    environment = {name: value for name, value in os.environ.items() if name not in threads._WAITING}
    path = os.pathsep.join([str(tmp_path), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *entry, "demo"],
        env=environment | {"PYTHONPATH": path},
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "spins 3000" in done.stdout, done.stderr
