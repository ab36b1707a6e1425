"""Page of a run: content, links and curves."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lab2pix import load_config
from lab2pix.evaluation.accumulator import Networks
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import build_method
from lab2pix.reporting.chart import chart, ticks
from lab2pix.training import evaluation, figures, train
from lab2pix.training import page as pages
from lab2pix.training.figures import plot_losses
from lab2pix.training.log import read_scores
from lab2pix.training.page import write_page
from lab2pix.training.state import Best, TrainingState, build_state
from tests.helpers.toy import lines, stop_at, toy_config

pytestmark = pytest.mark.usefixtures("toys")


class Page(HTMLParser):
    """What a page shows and what it points to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.text = ""
        self.targets: list[str] = []
        self.rows: list[list[str]] = []
        self.figures = 0
        self._quiet = self._in_cell = False
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._quiet = tag == "style"
        self.figures += tag == "svg"
        self.targets += [value or "" for key, value in attributes if key in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._in_cell = True
            self.rows[-1].append("")
        if tag == "br" and self._in_cell:
            self.rows[-1][-1] += "|"

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if not self._quiet:
            self.text += data
            if self._in_cell:
                self.rows[-1][-1] += data


@pytest.mark.slow
def test_run_page_shows_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(evaluation, "load_networks", lambda *arguments: Networks())
    monkeypatch.setattr(evaluation.Evaluation, "scores", lambda *arguments: {"fid": next(values), "psnr": 12.5})
    config = toy_config(
        train__evaluate_every=4,
        evaluation__features=["inception"],
        checkpoint__best="fid",
        monitor__sample_every=4,
        name="<toy> & co",
    )
    run = tmp_path / "a run"
    train(config, run)
    page = Page(run / "index.html")
    assert "<toy> & co" in page.text
    assert "step 12 of 12 (complete)" in page.text
    rows = {row[0].split("|")[-1]: row for row in page.rows if len(row) == 6}
    # The name of the score, then the latest value, its step, the best one, its step, and the direction.
    assert rows["kept: checkpoints/step-00000008"] == [
        "FID|fid|kept: checkpoints/step-00000008",
        *("2.0000", "12", "1.0000", "8", "lower"),
    ]
    assert rows["psnr"] == ["PSNR (dB)|psnr", "12.50", "12", "12.50", "4", "higher"]
    own = [line["scores"]["l1"] for line in lines(run, "scores")]
    assert rows["l1"][1:] == [f"{own[-1]:.4f}", "12", f"{min(own):.4f}", str(4 * (own.index(min(own)) + 1)), "lower"]
    assert page.figures == 3
    sheets = [target for target in page.targets if target.startswith("samples/")]
    assert set(sheets) == {f"samples/step-{step:08d}.png" for step in (4, 8, 12)}
    assert sheets[0] == "samples/step-00000012.png"  # the latest first and large
    for target in page.targets:
        assert (run / target.partition("?")[0]).is_file(), target
    assert f"lab2pix generate '{run}' LABEL_MAPS --out IMAGES" in page.text
    assert f"lab2pix evaluate '{run}' --out '{run}/report.json' --count 256 --features inception" in page.text
    assert "--resume" not in page.text
    assert ["train.evaluate_every", "4", "null"] in page.rows
    assert not any(row[0].startswith("optimizer.") for row in page.rows)
    assert not list(run.glob(".tmp*"))


@pytest.mark.slow
def test_run_page_says_how_to_resume(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(toy_config(), run, validators=[stop_at(6)])
    page = Page(run / "index.html")
    assert "step 6 of 12 (50 %)" in page.text
    assert f"lab2pix train --resume --out {run}" in page.text
    train(None, run, resume=True)
    assert "(complete)" in Page(run / "index.html").text


@pytest.mark.slow
def test_run_page_says_when_nothing_is_held_out(tmp_path: Path) -> None:
    train(toy_config(data__val_split=None), tmp_path / "run")
    page = Page(tmp_path / "run" / "index.html")
    assert "Training label maps" in page.text
    assert page.figures == 0
    assert "Scores" not in page.text


@pytest.fixture
def state() -> TrainingState:
    narrow = ["generator.width=2", "generator.modulation_hidden=2", "discriminator.kind=patch", "discriminator.width=2"]
    config = load_config("v2-small", ["train.steps=500", *narrow])
    method = build_method(config, LabelSpace.load("scenes"), pretrained=False)
    state = build_state(method, torch.device("cpu"))
    state.step = 100
    return state


def write_log(run: Path, *log: dict) -> None:
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))


def test_run_page_compares_settings_with_the_preset(state: TrainingState, tmp_path: Path) -> None:
    write_log(tmp_path)
    write_page(tmp_path, state, total=500)
    page = Page(tmp_path / "index.html")
    assert page.rows[-6:] == [
        ["setting", "here", "preset v2-small"],
        ["train.steps", "500", "5000"],
        ["generator.width", "2", "16"],
        ["generator.modulation_hidden", "2", "24"],
        ["discriminator.kind", "patch", "hierarchical"],
        ["discriminator.width", "2", "16"],
    ]
    assert page.figures == 0
    assert "step 100 of 500 (20 %)" in page.text


def test_earlier_sheets_are_spread_over_a_long_run(state: TrainingState, tmp_path: Path) -> None:
    write_log(tmp_path)
    (tmp_path / "samples").mkdir()
    for step in range(1, 102):
        (tmp_path / "samples" / f"step-{step:08d}.png").touch()
    write_page(tmp_path, state, total=500)
    sheets = sorted({int(t[13:21]) for t in Page(tmp_path / "index.html").targets if t.startswith("samples/")})
    assert len(sheets) == pages._EARLIER + 1
    assert (sheets[0], sheets[-1]) == (1, 101)
    gaps = [after - before for before, after in pairwise(sheets)]
    assert set(gaps) <= {6, 7}


def test_scores_without_a_number_leave_the_page_whole(state: TrainingState, tmp_path: Path) -> None:
    state.best = Best("psnr", 3.0, 2)
    write_log(
        tmp_path,
        {"step": 1, "evaluation": {"psnr": float("inf"), "ssim": float("nan")}, "note": "a < b"},
        {"step": 2, "evaluation": {"psnr": 3.0}},
    )
    write_page(tmp_path, state, total=500, notes=["a < b"])
    page = Page(tmp_path / "index.html")
    assert [row for row in page.rows if len(row) == 6][1:] == [
        ["PSNR (dB)|psnr|kept: checkpoints/step-00000002", "3.0000", "2", "3.0000", "2", "higher"]
    ]
    assert "A < b." in page.text


def test_scores_are_read_with_the_evaluators_first(tmp_path: Path) -> None:
    write_log(
        tmp_path,
        {"step": 1, "losses": {"generator": {"pixel": 1.0}}},
        {"step": 1, "scores": {"l1": 2.0}},
        {"step": 1, "evaluation": {"psnr": 3.0}},
        {"step": 2, "scores": {"l1": 4.0}},
    )
    found = read_scores(tmp_path / "log.jsonl")
    assert found == {"psnr": {1: 3.0}, "l1": {1: 2.0, 2: 4.0}}
    assert list(found) == ["psnr", "l1"]


@pytest.mark.slow
def test_plot_of_the_losses_leaves_the_evaluators_scores_out(tmp_path: Path) -> None:
    line = {"step": 1, "losses": {"generator": {"pixel": 1.0}}}
    sizes = []
    for log in ([line], [line, {"step": 1, "evaluation": {"fid": 300.0}}], [line, {"step": 1, "scores": {"l1": 1.0}}]):
        write_log(tmp_path, *log)
        plot_losses(tmp_path / "log.jsonl", tmp_path / "losses.png")
        with Image.open(tmp_path / "losses.png") as image:
            sizes.append(image.height)
    assert sizes[0] == sizes[1] < sizes[2]


def test_without_matplotlib_there_is_no_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(tmp_path, {"step": 1, "losses": {"generator": {"pixel": 1.0}}})
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    plot_losses(tmp_path / "log.jsonl", tmp_path / "losses.png")
    assert not (tmp_path / "losses.png").exists()


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6), most=st.integers(2, 8))
def test_ticks_are_few_round_and_inside(low: float, span: float, most: int) -> None:
    found = ticks(low, low + span, most)
    assert 1 <= len(found) <= most
    assert low - 1e-6 * span <= found[0]
    assert found[-1] <= low + span * (1 + 1e-6)
    if len(found) > 1:
        step = found[1] - found[0]
        leading = f"{step:.3e}"[:5]
        assert leading in ("1.000", "2.000", "5.000")
        assert len(found) > (most - 1) / 2.5 - 1


def test_ticks_of_a_single_value() -> None:
    assert ticks(3.0, 3.0, 5) == [3.0]
    assert ticks(0, 120, 5) == [0, 50, 100]


def test_chart_marks_the_best_and_tells_each_value() -> None:
    drawn = chart({10: 0.25, 20: 0.5, 30: 0.375}, 20, 'a "score"')
    assert 'aria-label="a &#34;score&#34;"' in drawn
    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"[^>]*><title>([^<]+)</title>', drawn)
    assert [title for *_, title in circles] == ["step 10: 0.2500", "step 20: 0.5000", "step 30: 0.3750"]
    assert [radius for *_, radius, _ in circles] == ["2.5", "5", "2.5"]
    across, down = ([float(circle[axis]) for circle in circles] for axis in (0, 1))
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.2)
    assert down[0] > down[2] > down[1]  # what is higher lies higher
    assert ">step<" in drawn


def test_long_curves_have_no_dots_but_the_best_one() -> None:
    drawn = chart({step: float(step % 7) for step in range(200)}, 6, "score")
    assert drawn.count("<circle") == 1
    assert "step 6: 6.0000" in drawn
    one = chart({5: 0.0}, 5, "score")
    assert one.count("<circle") == 1
    assert "nan" not in one
