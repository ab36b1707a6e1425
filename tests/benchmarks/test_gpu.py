"""The checks and measurements of a GPU, without one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import _method_checks
import gpu
import pytest
import torch

from lab2pix.methods import method_names

SCRIPT = Path(gpu.__file__)


@pytest.fixture
def report(tmp_path):
    made = gpu.Report(tmp_path / "gpu.json", 200)
    yield made
    made.finish()


def test_gpu_without_cuda_prints_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path / "gpu.json")]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_gpu_report_records_a_failure_and_goes_on(report):
    def broken():
        yield {"batch": 1}
        raise ValueError("too warm")

    report.run("training", "first", broken)
    report.run("training", "second", lambda: [{"batch": 2}])
    rows = json.loads(report.out.read_text())["rows"]
    assert [(row["name"], row["status"]) for row in rows] == [("first", "ok"), ("first", "failed"), ("second", "ok")]
    assert rows[1]["reason"] == "ValueError: too warm"
    assert report.finish() == 1


def test_gpu_report_skips_what_would_not_end_in_time(report):
    report.expected["check"] = 1000
    report.run("check", "late", lambda: pytest.fail("it ran"))
    report.run("training", "short", lambda: [{}])
    assert [row["status"] for row in report.rows] == ["skipped", "ok"]
    assert report.finish() == 0


def test_gpu_report_ends_the_process_in_time_and_keeps_its_rows(tmp_path):
    out = tmp_path / "gpu.json"
    program = (
        f"import sys, time; sys.path.insert(0, {str(SCRIPT.parent)!r}); import gpu; from pathlib import Path\n"
        f"report = gpu.Report(Path({str(out)!r}), 2, 0.01)\n"
        "report.run('training', 'quick', lambda: [{}])\n"
        "report.run('training', 'endless', lambda: time.sleep(100))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 1, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [(row["name"], row["status"]) for row in rows] == [("quick", "ok"), ("endless", "failed")]


@pytest.mark.parametrize(
    ("memory", "held", "one", "two", "expected"),
    [(1000, 100, 50, 90, 16), (1000, 700, 60, 90, 1), (10**6, 100, 50, 90, 32), (1000, 100, 50, 40, 32)],
)
def test_gpu_largest_batch_fits_three_quarters_of_the_memory(memory, held, one, two, expected):
    assert gpu.largest_batch(memory, held, one, two) == expected


def test_gpu_check_finds_a_step_that_changes_nothing(monkeypatch):
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self, closure=None: None)
    check = _method_checks.MethodCheck("pix2pix", torch.device("cpu"), tiny=True)
    with pytest.raises(RuntimeError, match="no weights of optimizer discriminator, generator change in 40 steps"):
        list(check.step("fp32"))


def test_gpu_check_finds_a_checkpoint_that_is_not_loaded(monkeypatch):
    monkeypatch.setattr(_method_checks, "load_checkpoint", lambda path, state: None)
    check = _method_checks.MethodCheck("pix2pix", torch.device("cpu"), tiny=True)
    with pytest.raises(RuntimeError, match="a loaded checkpoint differs"):
        list(check.resume())


@pytest.mark.timeout(600)
def test_gpu_tiny_runs_every_part_on_a_cpu(tmp_path):
    out = tmp_path / "gpu.json"
    rows = []
    for parts, limit in ((["check"], 60), (["training"], 60), (["generation"], 60)):
        command = [sys.executable, str(SCRIPT), "--device", "cpu", "--tiny", "--seconds", str(limit), "--parts", *parts]
        done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=False, timeout=150)
        record = json.loads(out.read_text())
        rows += record["rows"]
        broken = [row for row in record["rows"] if row["status"] == "failed" and "time was over" not in row["reason"]]
        assert not broken, done.stderr
        assert {"command", "machine", "versions"} <= record.keys() and " ok, " in done.stdout
    assert {row["name"] for row in rows if row["kind"] == "check"} <= set(method_names())
    for kind in gpu.KINDS:
        assert any(row["status"] == "ok" for row in rows if row["kind"] == kind)
    measured = [row for row in rows if "images_per_s" in row]
    assert measured
    assert all(row["images_per_s"] == pytest.approx(row["batch"] / row["seconds"]) for row in measured)
    assert all(0 < row["step_mib"] < row["total_mib"] for row in measured)
