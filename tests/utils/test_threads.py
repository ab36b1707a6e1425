"""OpenMP settings and available processors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab2pix.utils import threads


def test_waiting_threads_sleep_unless_the_user_says_otherwise() -> None:
    environment: dict[str, str] = {}
    threads.configure_openmp(environment)
    assert (environment["GOMP_SPINCOUNT"], environment["KMP_BLOCKTIME"]) == ("1000", "1")
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
    assert threads._quota(tmp_path) == processors


def test_quota_limits_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_quota", lambda: 1)
    environment: dict[str, str] = {}
    threads.configure_openmp(environment)
    assert environment["OMP_NUM_THREADS"] == "1"
    assert threads.available_processors() == 1
    environment = {"OMP_NUM_THREADS": "4"}
    threads.configure_openmp(environment)
    assert environment["OMP_NUM_THREADS"] == "4"


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
    assert "spins 1000" in done.stdout, done.stderr
