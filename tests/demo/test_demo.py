from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lab2pix import demo
from lab2pix.cli import main
from lab2pix.demo import run_demo, runner
from lab2pix.demo.images import Scene, write_sheet
from lab2pix.demo.runner import MachineSpeed, plan_steps
from lab2pix.demo.variants import find_variant
from lab2pix.errors import ConfigError, OutputError
from lab2pix.inference import generate_folder
from lab2pix.inference.synthesizer import Synthesizer
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import get_method
from lab2pix.recipes import load_config
from lab2pix.training import RunResult

TINY = (
    "generator.width=4",
    "generator.spectral_norm=false",
    "generator.modulation_hidden=4",
    "generator.global_encoder.width=4",
    "generator.global_encoder.max_width=8",
    "discriminator.width=4",
    "discriminator.max_width=8",
    "train.batch_size=2",
    "data.scenes.train_count=4",
    "data.scenes.val_count=9",
)
TINY_V1 = (*TINY, "segmenter.width=4")


class Page(HTMLParser):
    """Collects pictures, checks that tags close, and that nothing is fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[Image.Image] = []
        self.words = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            source = values["src"] or ""
            assert source.startswith("data:image/png;base64,")
            assert values["alt"]
            self.pictures.append(Image.open(BytesIO(base64.b64decode(source.partition(",")[2]))))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "html" or self.open:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("place") / "demo"
    result = run_demo(out, minutes=0.02, device="cpu", overrides=TINY)
    assert result == demo.DemoResult(out / "index.html", out / "samples.png", 0)
    return out


@pytest.fixture(scope="module", params=["v1", pytest.param("v1-sketch", marks=pytest.mark.xslow)])
def unpaired(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp(request.param) / "demo"
    result = run_demo(out, method=request.param, minutes=0.02, device="cpu", overrides=TINY_V1)
    assert result == demo.DemoResult(out / "index.html", out / "samples.png", 0)
    return request.param, out


@pytest.mark.slow
def test_page_needs_nothing_beside_it_and_shows_everything(finished: Path) -> None:
    text = (finished / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "url(" not in text
    assert "$" not in page.words
    # 8 scenes with 3 pictures, label map and 3 seeds, 7 on the way, the loss plot, and the film.
    assert len(page.pictures) >= 24 + 4 + 7 + 1 + 3 * 3
    for name in LabelSpace.load("scenes").names:
        assert name in page.words
    for words in ("CPU core", "of 2 scenes", "Held-out scenes", "Command", "perceptual"):
        assert words in page.words
    assert f"lab2pix generate {finished / 'run'} {finished / 'labels'} --out {finished / 'images'}" in page.words
    assert "prefers-color-scheme: dark" in text


@pytest.mark.slow
def test_page_of_v1_says_that_nothing_was_paired(unpaired: tuple[str, Path]) -> None:
    method, out = unpaired
    text = (out / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "$" not in page.words
    condition = "drawing" if method == "v1-sketch" else "label map"
    for words in (
        "a small Lab2Pix-V1 learned",
        "without pairs",
        "never shown with it",
        f"One {condition}, different noise",
    ):
        assert words in page.words
    assert f"The scene of this {condition}, never shown with it in training" in text
    assert "seg_error" not in page.words
    assert "Share of pixels that its own segmenter classifies differently" in page.words
    # 8 scenes with 3 pictures, five seeds, 7 on the way, three sizes, the loss plot, and the film.
    assert len(page.pictures) >= 24 + 6 + 7 + 4 + 1 + 3 * 3
    sizes = {32, 64, 128} if method == "v1-sketch" else {16, 32, 64}
    assert sizes <= {picture.width for picture in page.pictures}
    assert "real image" not in text.lower()


def test_every_picture_of_v1_has_its_place_on_the_sheet(tmp_path: Path) -> None:
    def plain(value: int, side: int) -> torch.Tensor:
        return torch.full((3, side, side), value, dtype=torch.uint8)

    generated = torch.stack([plain(value, 64) for value in (10, 20, 30)])
    scene = Scene(
        "one", torch.zeros(64, 64, dtype=torch.int64), plain(90, 64), generated, (plain(40, 32), plain(50, 16))
    )
    write_sheet(tmp_path / "sheet.png", [scene], LabelSpace.load("scenes"), find_variant("v1"))
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("L"))
    sky = round(np.dot(LabelSpace.load("scenes").classes[0].color, (0.299, 0.587, 0.114)))
    row, last = sheet[sheet.shape[0] - 200 - 26 - 100], sheet[-100]
    assert row[100::200].tolist() == [sky, 10, 20, 30, 90]
    assert last[100::200].tolist()[:4] == [sky, 50, 40, 10]


def test_a_demo_of_another_method_is_left_alone(finished: Path, unpaired: tuple[str, Path]) -> None:
    method, out = unpaired
    with pytest.raises(OutputError, match=f"holds a demo of method {method}, not of v2; .* --method {method}"):
        run_demo(out)
    with pytest.raises(OutputError, match=f"holds a demo of method v2, not of {method}"):
        run_demo(finished, method=method)
    with pytest.raises(ConfigError, match="no demo of method 'v3'"):
        run_demo(out, method="v3")


@pytest.mark.parametrize(
    ("words", "out"), [([], "demo"), (["--method", "v1"], "demo-v1"), (["--method", "v1", "--out", "x"], "x")]
)
def test_each_demo_variant_has_a_folder(words: list[str], out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, object]] = []

    def note(folder: Path, **settings: object) -> demo.DemoResult:
        asked.append((folder, settings["method"]))
        return demo.DemoResult(None, None)

    monkeypatch.setattr(demo, "run_demo", note)
    with pytest.raises(SystemExit) as ended:
        main(["demo", *words])
    assert ended.value.code == 0
    assert asked == [(Path(out), "v1" if words else "v2")]


@pytest.mark.slow
def test_demo_writes_label_maps_to_generate_from(finished: Path, unpaired: tuple[str, Path], tmp_path: Path) -> None:
    for name, out in (("v2", finished), unpaired):
        synthesizer = Synthesizer.load(out / "run", device="cpu")
        report = generate_folder(synthesizer, out / "labels", tmp_path / name)
        assert report.ok
        assert len(report.written) == 9


def test_demo_that_is_finished_stays_as_it_is(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "train", lambda *_, **__: pytest.fail("trained again"))
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    result = run_demo(finished, device="cpu")
    assert result.page == finished / "index.html"
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    assert f"is finished: open {finished / 'index.html'}" in capsys.readouterr().out


@pytest.mark.xslow
@pytest.mark.slow
def test_an_interrupted_demo_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    really_train = runner.train

    def interrupted(*arguments: object, **settings: object) -> RunResult:
        return replace(really_train(*arguments, **settings), signal=2)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "measure", lambda *_, **__: MachineSpeed(0.1, 0.01))
    monkeypatch.setattr(runner, "train", interrupted)
    stopped = run_demo(out, minutes=0.02, device="cpu", overrides=TINY)
    assert (stopped.page, stopped.exit_code) == (None, 130)
    assert not (out / "index.html").exists()
    monkeypatch.setattr(runner, "train", really_train)
    assert run_demo(out, minutes=0.02, device="cpu").page == out / "index.html"
    text = capsys.readouterr().out
    assert "repeat the command to continue" in text
    assert "Drawing from label maps" in text


def test_demo_ctrl_c_while_measuring_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "measure", lambda *_, **__: None)
    assert run_demo(tmp_path / "demo", device="cpu").exit_code == 130
    assert not (tmp_path / "demo").exists()


def test_demo_leaves_foreign_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(OutputError, match="holds something else than a demo"):
        run_demo(tmp_path)
    assert (tmp_path / "index.html").read_text() == "mine"
    with pytest.raises(OutputError, match="is a file"):
        run_demo(tmp_path / "index.html")
    (tmp_path / "other" / "run").mkdir(parents=True)
    (tmp_path / "other" / "run" / "config.yaml").write_text("name: mine\ntrain: {steps: 5}\n")
    with pytest.raises(OutputError, match="another run than the demo's"):
        run_demo(tmp_path / "other")
    with pytest.raises(ConfigError, match="no time to train"):
        run_demo(tmp_path / "demo", minutes=0)


@pytest.mark.parametrize("step", [0.02, 0.2, 1.0, 8.0])
@pytest.mark.parametrize("minutes", [0.5, 8])
@pytest.mark.parametrize("preset", ["v2-small", "v1-small"])
def test_demo_step_plan_fits_the_time(step: float, minutes: float, preset: str) -> None:
    config = load_config(preset, ["name=demo"])
    pace = MachineSpeed(step, 0.03)
    plan = plan_steps(config, pace, 60 * minutes).train
    assert plan.steps is not None
    assert plan.steps % runner.SHOWS == 0
    a_sample = 1 if get_method(config.method).paired else 2
    drawn = min(plan.steps * plan.batch_size * a_sample, config.data.scenes.train_count)
    needed = plan.steps * step + drawn * pace.scene + runner.SHOWS * runner.SHOW_SECONDS + runner.FINISH_SECONDS
    assert needed <= 60 * minutes or plan.steps == runner.SHOWS
    assert plan.max_minutes is not None
    assert plan.max_minutes < minutes
    assert plan.steps <= 2 * (config.train.steps or 0)
