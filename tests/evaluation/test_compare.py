"""Comparison of reports: incompatible reports, and names that are hard to render."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lab2pix.errors import DataError, OutputError
from lab2pix.evaluation.compare import compare
from lab2pix.evaluation.report import Report, Score
from lab2pix.utils import files
from tests.helpers.commands import Run
from tests.helpers.images import Folders


def written(file: Path, name: str = "a", **protocol: Any) -> Path:
    """Write a report of a made-up score."""
    return Report(name, {"ppa": Score.of_sets([0.5])}, {"size": [8, 8], **protocol}).save(file)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "one", "other", "named"),
    [
        ("generated", {"count": 4, "list_sha256": "aa"}, {"count": 4, "list_sha256": "bb"}, "generated.list_sha256"),
        ("real", {"count": 4, "list_sha256": "aa"}, {"count": 4, "list_sha256": "bb"}, "real.list_sha256"),
        ("labels", {"label_space": "scenes"}, {"label_space": "ade20k"}, "labels.label_space"),
        ("real", {"split": "val", "list_sha256": "aa"}, {"split": "test", "list_sha256": "aa"}, "real.split"),
        ("real", {"scenes_seed": 1, "list_sha256": "aa"}, {"list_sha256": "aa"}, "real.scenes_seed"),
        ("generated", {"count": 4, "folder": "a"}, {"count": 5, "folder": "b"}, "generated.count"),
        ("real", {"list_sha256": "aa"}, None, "real"),
    ],
)
def test_reports_on_other_data_are_refused(
    key: str, one: dict[str, Any], other: dict[str, Any] | None, named: str, tmp_path: Path
) -> None:
    reports = [written(tmp_path / "one.json", **{key: one}), written(tmp_path / "other.json", **{key: other})]
    with pytest.raises(
        DataError, match=rf"different protocols: '{named}' is .* in .*one\.json but .* in .*other\.json"
    ):
        compare(reports)
    [difference] = compare(reports, allow_different=True).differences
    assert difference.startswith(f"'{named}' is ")


def test_a_run_and_a_folder_of_the_same_data_are_alike(tmp_path: Path) -> None:
    files = {"count": 4, "list_sha256": "aa"}
    run = {
        "generated": {"run": "r", "step": 9, "seed": 0, **files},
        "real": {"format": "folder", "split": "v", **files},
    }
    folder = {"generated": {"folder": "f", **files}, "real": {"folder": "g", **files}}
    reports = [written(tmp_path / "run.json", **run), written(tmp_path / "folder.json", **folder)]
    assert compare(reports).differences == []
    with pytest.raises(DataError, match="nothing to compare"):
        compare([])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": {}}, "'scores': Dictionary should have at least 1 item"),
        ({"scores": {"a": 1}}, "'scores.a'"),
        ({"scores": {"a": {"values": ["x"]}}}, "'scores.a.values.0': Input should be a valid number"),
        ({"scores": {"a": {"values": [float("nan")]}}}, "'scores.a.values.0': Input should be a finite number"),
        ({"protocol": None}, "'protocol': Input should be a valid dictionary"),
        ({"name": 7}, "'name': Input should be a valid string"),
    ],
)
def test_a_report_that_lacks_something_is_one_sentence(
    change: dict[str, Any], message: str, run: Run, tmp_path: Path
) -> None:
    file = written(tmp_path / "report.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    code, _, errors = run("compare", file, "--out", tmp_path / "out")
    assert code == 2, errors
    [line] = errors.strip().splitlines()
    assert f"{file} is not a complete report" in line
    assert message in line
    assert not (tmp_path / "out").exists()


def test_comparison_plot_escapes_names(tmp_path: Path) -> None:
    names = (r"cost $\x$", "写真", "$a$")
    table = compare([written(tmp_path / f"{number}.json", name) for number, name in enumerate(names)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = table.write(tmp_path / "out")
    assert sorted(file.name for file in folder.iterdir()) == ["compare.html", "compare.md", "compare.png"]
    for name in names:
        assert name in (folder / "compare.html").read_text()
        assert name in (folder / "compare.md").read_text()


def test_without_matplotlib_a_comparison_has_no_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[compare.__module__], "find_spec", lambda name: None)
    folder = compare([written(tmp_path / "a.json")]).write(tmp_path / "out")
    assert sorted(file.name for file in folder.iterdir()) == ["compare.html", "compare.md"]
    assert "<img" not in (folder / "compare.html").read_text("utf-8")


def test_comparison_write_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = compare([written(tmp_path / "report.json")])
    taken = tmp_path / "taken"
    (taken / "compare.html").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"compare\.html is a folder"):
        table.write(taken, overwrite=True)
    assert [file.name for file in taken.iterdir()] == ["compare.html"]

    def full(file: Path) -> None:
        if file.name.endswith(".png"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync_file", full)
    with pytest.raises(OutputError, match="No space left on device"):
        table.write(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_a_score_that_is_nowhere_finite_is_shown_as_such(
    evaluate: Run, run: Run, folders: Folders, tmp_path: Path
) -> None:
    code, output, errors = evaluate(generated=folders.real)
    assert code == 0, errors
    assert "psnr           –  (0 images, 5 not finite)" in output
    assert "5 images equal their photos, where PSNR is infinite" in output
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["scores"]["psnr"]["mean"], report["scores"]["psnr"]["not_finite"]) == (None, 5)
    assert "0 images, 5 not finite" in (tmp_path / "report.html").read_text()
    code, output, errors = run("compare", tmp_path / "report.json", "--out", tmp_path / "out")
    assert code == 0, errors
    [head, _, row] = output.splitlines()[:3]
    cells = dict(zip(head.split("|"), row.split("|"), strict=True))
    assert cells[" psnr ↑ "] == " – "
    assert Image.open(tmp_path / "out" / "compare.png").width > 300
