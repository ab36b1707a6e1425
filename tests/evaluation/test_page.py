"""Reports as files and HTML pages, and comparison pages."""

from __future__ import annotations

import base64
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lab2pix
from lab2pix.evaluation.compare import compare
from lab2pix.evaluation.report import Report, Score
from lab2pix.reporting.html import number, spread
from tests.helpers.images import SPACE, Folders


@pytest.fixture
def report(folders: Folders, reader: Path, means: Path) -> Report:
    protocol = lab2pix.Protocol(segmenter=reader, features=[str(means)])
    return lab2pix.evaluate_folders(
        folders.generated, folders.real, protocol, labels=folders.labels, label_space="scenes", name="a <b> & c",
        device="cpu",
    )  # fmt: skip


def pictures(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]+)"', page)
    return [Image.open(BytesIO(base64.b64decode(data))) for data in found]


@pytest.mark.slow
def test_the_page_shows_scores_classes_pictures_and_protocol(report: Report, tmp_path: Path) -> None:
    page = report.save(tmp_path / "deep" / "report.json").with_suffix(".html").read_text()
    assert "a &lt;b&gt; &amp; c" in page
    assert "<b>" not in page
    for name, score in report.scores.items():
        assert f'<code class="soft">{name}</code>' in page
        assert spread(score.mean, score.std) in page
    for row in report.classes:
        assert f'<th scope="row">{row["name"]}</th><td class="number">{number(row["iou"])}</td>' in page
    assert f"In neither label maps nor predictions, so in no mean: {', '.join(report.left_out)}." in page
    assert report.protocol["generated"]["list_sha256"] in page
    # Best, median, worst: four each, as label map, picture and photo.
    shown = pictures(page)
    assert len(shown) == 3 * 4 * 3
    assert shown[0].size == (48, 32)
    colors = {tuple(color) for color in np.asarray(shown[0].convert("RGB")).reshape(-1, 3).tolist()}
    painted = SPACE.to_colors(torch.arange(SPACE.num_classes).view(1, -1))[:, 0].T.tolist()
    assert colors <= {tuple(color) for color in painted}


def test_a_picture_that_has_gone_is_left_out_of_the_page(report: Report, folders: Folders, tmp_path: Path) -> None:
    for file in folders.real.rglob("*.png"):
        file.unlink()
    page = report.save(tmp_path / "report.json").with_suffix(".html").read_text()
    assert len(pictures(page)) == 3 * 4 * 2
    assert "label map, generated<" in page


def test_page_lists_images_left_out(report: Report, tmp_path: Path) -> None:
    report.unmatched = [f"lonely {index}" for index in range(60)]
    report.broken = [{"file": "broken.png", "reason": "is <truncated>"}]
    page = report.save(tmp_path / "report.json").with_suffix(".html").read_text()
    assert "<li>broken.png: is &lt;truncated&gt;</li>" in page
    assert "lonely 49: without partner" in page
    assert "and 10 more without partner" in page


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0"), (0.12345, "0.1235"), (-3.5, "-3.5000"), (24.531, "24.53"), (133.24, "133.2")],
)
def test_numbers_have_the_digits_that_say_something(value: float | None, text: str) -> None:
    assert number(value) == text


def test_a_deviation_is_as_exact_as_its_mean() -> None:
    assert spread(24.531, 0.4567) == "24.53 ± 0.46"
    assert spread(0.5, None) == "0.5000"


def test_a_score_counts_apart_what_is_not_finite() -> None:
    score = Score.of_each([[1.0, float("inf")], [2.0, 6.0]], "images")
    assert score is not None
    assert (score.mean, score.count, score.values) == (3.0, 3, (1.0, 4.0))
    assert score.std == pytest.approx(np.std([1, 2, 6], ddof=1))
    assert score.to_dict("psnr")["not_finite"] == 1
    none = Score.of_each([[float("inf")] * 2], "images")
    assert none is not None
    assert none.to_dict("psnr") | {"better": ""} == {
        **{"mean": None, "std": None, "count": 0, "over": "images", "better": "", "values": [], "not_finite": 2},
    }
    assert Score.of_each([[], []], "images") is None


def test_the_terminal_gets_a_line_for_each_score(report: Report) -> None:
    lines = str(report).splitlines()
    ssim = report.scores["ssim"]
    assert f"ssim           {ssim.mean:.4f} ± {ssim.std:.4g}  (5 images)" in lines
    assert [line.split()[0] for line in lines[: len(report.scores)]] == list(report.scores)
    assert lines[0].endswith("  (1 sample set)")
    assert lines[len(report.scores)].startswith("classes in neither label maps nor predictions: ")


# --- side by side ------------------------------------------------------------------------------------------------


def written(folder: Path, name: str, number: int, **values: list[float]) -> Path:
    """Write a report of made-up scores."""
    scores = {score: Score.of_sets(found) for score, found in values.items()}
    protocol: dict[str, Any] = {"size": [8, 8], "generated": {"count": 4, "folder": f"somewhere/{number}"}}
    return Report(name, scores, protocol).save(folder / f"{name}{number}.json")


def test_means_and_deviations_are_over_seeds_and_noises(tmp_path: Path) -> None:
    values = [[0.5, 0.6, 0.7], [0.4, 0.5, 0.6], [0.9, 0.8, 0.7]]
    reports = [written(tmp_path, "ours", seed, ppa=found, fid=[9.0]) for seed, found in enumerate(values)]
    table = compare([*reports, written(tmp_path, "theirs", 0, fid=[30.5])])
    cell = table.rows["ours"]["ppa"]
    assert (cell.mean, cell.count) == (pytest.approx(np.mean(values)), 9)
    assert cell.std == pytest.approx(np.std(values, ddof=1))
    assert table.rows["ours"]["fid"].std == 0
    assert table.reports == {"ours": 3, "theirs": 1}
    assert table.best("fid") == "ours"
    lines = table.markdown().splitlines()
    assert lines[0] == "| method | reports | ppa ↑ | fid ↓ |"
    assert lines[2:] == ["| ours | 3 | **0.6333 ± 0.1581** | **9.0000 ± 0.0000** |", "| theirs | 1 | – | 30.50 |"]


@pytest.mark.slow
def test_the_comparison_is_written_as_page_table_and_plot(tmp_path: Path) -> None:
    reports = [written(tmp_path, name, 0, ppa=[0.1 * place, 0.3]) for place, name in enumerate(("<x>", "y|z", "w"))]
    table = compare(reports)
    folder = table.write(tmp_path / "out")
    page = (folder / "compare.html").read_text()
    assert '<th scope="row">&lt;x&gt;</th>' in page
    assert '<td class="number best">0.2500<br><small>± 0.0707</small></td>' in page
    [plot] = pictures(page)
    assert plot.size[0] > 300
    colors = {tuple(color) for color in np.asarray(Image.open(folder / "compare.png").convert("RGB")).reshape(-1, 3)}
    assert (0x2F, 0x6F, 0x6A) in colors  # the best one's bar
    assert "| y/z | 1 |" in (folder / "compare.md").read_text()
