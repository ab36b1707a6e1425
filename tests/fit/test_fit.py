"""`lab2pix fit` as a whole: plans of the three forms, a tiny run, going on, and bad input."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor
from typer.main import get_command

from lab2pix import cli
from lab2pix.data.transforms import to_pil
from lab2pix.fit import plan as planning
from lab2pix.fit import runner
from lab2pix.fit.fingerprint import MachineFingerprint
from lab2pix.fit.plan import Measurement, installed_starts
from lab2pix.fit.report import next_commands, plain_words, trend
from lab2pix.inference import Synthesizer, weights
from lab2pix.labels.space import LabelSpace
from lab2pix.recipes import load_config
from lab2pix.training import latest_checkpoint
from lab2pix.utils.files import write_png
from tests.docs.given import TINY
from tests.fit.conftest import Draw
from tests.helpers.commands import Run, sentence
from tests.helpers.generators import tiny_synthesizer
from tests.helpers.images import ColorReader, export

SMALL = [word for word in TINY.split() if not word.startswith(("data.", "train.batch_size"))]
SMALL_V1 = ["segmenter.width=4", "segmenter.blocks=[1,1,1,1]"]


class SureReader(ColorReader):
    def forward(self, image: Tensor) -> Tensor:
        return 100 * super().forward(image)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every step take a tenth of a second, without measuring it."""
    monkeypatch.setattr(planning, "measure", lambda config, machine: Measurement(0.1, 2**20, 2**20))


def read(file: Path) -> dict:
    return yaml.safe_load(file.read_text())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("form", "base"), [("pairs", "v2-small"), ("unpaired", "v1-small")])
def test_plan_is_an_ordinary_config_with_reasons(draw: Draw, tmp_path: Path, run: Run, form: str, base: str) -> None:
    out = tmp_path / "out"
    code, output, errors = run("fit", draw(form), "--plan", "--out", out, "--device", "cpu", "seed=3")
    assert code == 0, errors
    assert "learns without them" in output or "learns from" in output
    assert not (out / "run").exists()
    plan = read(out / "plan.yaml")
    assert (plan["base"], plan["seed"], plan["data"]["size"]) == (base, 3, [64, 64])
    config = load_config(str(out / "plan.yaml"))
    most = int(0.9 * (3600 - runner.FINISH_SECONDS) / 0.1)
    assert most - 1800 < (config.train.steps or 0) <= most  # some seconds have passed before
    lines = [line for line in (out / "plan.yaml").read_text().splitlines()[1:] if not line.endswith(":")]
    assert all("  # " in line for line in lines)
    assert LabelSpace.load(config.data.label_space).names == ("class 0", "class 1", "class 2")


def test_photos_alone_are_labeled_first(
    draw: Draw, tmp_path: Path, run: Run, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "default_segmenter", lambda: None)
    root, out = draw("photos"), tmp_path / "out"
    sentence(run("fit", root, "--plan", "--out", out), root, "--segmenter")
    assert not out.exists()
    scenes = LabelSpace.load("scenes")
    for number, file in enumerate(sorted(root.iterdir())):
        ids = torch.zeros(64, 64, dtype=torch.int64)
        ids[:, : 2 * number + 4] = 5
        write_png(file, to_pil(scenes.to_colors(ids)))
    names = list(scenes.names)
    unsure, reader = (
        export(reader, tmp_path / f"{number}.pt2", {"size": [32, 48], "classes": names})
        for number, reader in enumerate((ColorReader(), SureReader()))
    )
    sentence(run("fit", root, "--plan", "--out", tmp_path / "unsure", "--segmenter", unsure), "knows nothing")
    code, _, errors = run("fit", root, "--plan", "--out", out, "--segmenter", reader, "--device", "cpu")
    assert code == 0, errors
    assert read(out / "plan.yaml")["data"]["root"] == str(out / "data")
    assert len(list((out / "data" / "labels").rglob("*.png"))) == 24
    kept = read(out / "labeled-classes.yaml")["classes"]
    assert kept == [names[0], names[5]]
    assert list(LabelSpace.load(out / "data" / "classes.yaml").names) == kept


def test_a_fit_trains_shows_its_images_and_stays_as_it_is(
    draw: Draw, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = draw(), tmp_path / "out"
    words = ("fit", root, "--out", out, "--minutes", 9, "--no-browser", "--device", "cpu", *SMALL, "train.steps=2")
    code, _, errors = run(*words)
    assert code == 0, errors
    assert latest_checkpoint(out / "run") == out / "run" / "checkpoints" / "step-00000002"
    page = (out / "index.html").read_text()
    HTMLParser().feed(page)
    for part in ("class 0", "PSNR", "lab2pix paint", "colors", "base:"):
        assert part in page
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.width > 500
    assert json.loads((out / "scores.json").read_text())["scores"]["psnr"]["count"] == 2
    times = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}
    assert "is finished" in run(*words)[1]
    assert times == {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}
    sentence(run(*words, "seed=3"), "overrides", "--out")
    Synthesizer(out / "run")


@pytest.mark.usefixtures("quick")
def test_an_interrupted_fit_goes_on_with_its_plan(
    draw: Draw, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = draw("unpaired"), tmp_path / "out"
    words = ("fit", root, "--out", out, "--no-browser", "--device", "cpu", *SMALL, *SMALL_V1, "train.steps=2")
    assert run(*words, "--plan")[0] == 0
    monkeypatch.setattr("lab2pix.training.interrupts.InterruptHandler.reason", 15)
    code, output, _ = run(*words)
    assert (code, "the same command goes on" in output) == (143, True)
    assert not (out / "index.html").exists()
    monkeypatch.undo()
    monkeypatch.setattr(runner, "_prepare", None)
    code, output, errors = run(*words)
    assert code == 0, errors
    assert "Going on" in output
    assert latest_checkpoint(out / "run") == out / "run" / "checkpoints" / "step-00000002"
    assert (out / "sheet.png").exists()


@pytest.mark.usefixtures("quick")
def test_a_plan_changed_by_hand_is_used_and_not_replaced(
    draw: Draw, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = draw(), tmp_path / "out"
    words = ("fit", root, "--out", out, "--plan", "--device", "cpu")
    assert run(*words)[0] == 0
    assert run(*words, "--minutes", 30)[0] == 0
    plan = out / "plan.yaml"
    plan.write_text(plan.read_text().replace("size: [64, 64]", "size: [96, 96]"))
    sentence(run(*words, "--minutes", 90), plan, "changed by hand")
    monkeypatch.setattr(runner, "_prepare", None)
    assert run(*words, "--minutes", 30)[0] == 0
    assert load_config(str(plan)).data.size == (96, 96)


@pytest.mark.usefixtures("quick")
def test_foreign_folders_are_left_alone(draw: Draw, tmp_path: Path, run: Run) -> None:
    root = draw()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    sentence(run("fit", root, "--out", tmp_path / "other"), "something else than a fit")
    sentence(run("fit", root, "--out", root), "folder of the data itself")
    sentence(run("fit", root, "--out", tmp_path / "other" / "notes.txt"), "is a file")


def test_no_time_for_a_checkpoint_is_an_error(
    draw: Draw, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "measure", lambda config, machine: Measurement(60.0, 1, 1))
    sentence(
        run("fit", draw(), "--plan", "--out", tmp_path / "out", "--minutes", 2), "single checkpoint", "minutes more"
    )


def test_plan_stays_within_memory_and_disk(
    draw: Draw, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 2**30
    take = MachineFingerprint.take
    monkeypatch.setattr(MachineFingerprint, "take", lambda *words: replace(take(*words), memory=free, disk=2**30))

    def measured(config, machine) -> Measurement:
        memory = config.train.batch_size * 2**28
        fits = memory <= 0.8 * free
        return Measurement(0.1 if fits else math.inf, memory, 2**20)

    monkeypatch.setattr(planning, "measure", measured)
    root = draw()
    assert run("fit", root, "--plan", "--out", tmp_path / "out", "--device", "cpu")[0] == 0
    assert read(tmp_path / "out" / "plan.yaml")["train"]["batch_size"] == 2
    monkeypatch.setattr(planning, "measure", lambda *_: Measurement(0.1, 1, 2**30))
    sentence(run("fit", root, "--plan", "--out", tmp_path / "full", "--device", "cpu"), "checkpoints take", "make room")
    monkeypatch.setattr(planning, "measure", lambda *_: Measurement(math.inf, 2**33, 1))
    sentence(run("fit", root, "--plan", "--out", tmp_path / "less", "--device", "cpu"), "8.0 GiB of memory", "1.0 GiB")


def test_measurement_counts_memory_before_it_tries(tmp_path: Path, draw: Draw) -> None:
    from lab2pix.fit.dataset import arrange, find_data

    data = arrange(find_data(draw()), tmp_path / "data")
    config = load_config("v2-small", {**data.settings, **dict(word.split("=") for word in SMALL[:3])})
    machine = MachineFingerprint.take(torch.device("cpu"), tmp_path)
    found = planning.measure(config, replace(machine, memory=2**20))
    assert found.seconds == math.inf
    assert found.memory > 2**20


def test_starts_are_installed_models_of_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_synthesizer("landscapes").save(tmp_path / "photos")
    tiny_synthesizer("scenes", data={"format": "scenes"}).save(tmp_path / "drawn")
    files = {name: tmp_path / name / weights.WEIGHTS_FILE for name in ("photos", "drawn")}
    monkeypatch.setattr(weights, "shipped_models", lambda: files)
    [start] = installed_starts()
    assert (start.name, start.paired, start.settings["generator.width"]) == ("photos", True, 4)
    assert "sky" in start.classes
    assert "generator.num_upsamples" not in start.settings


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("psnr", 20, "colors are close to the photo's"),
        ("psnr", 5, "colors differ"),
        ("frechet_efficientnet_lite0", 3, "as a set, close to the photos"),
        ("frechet_efficientnet_lite0", 100, "as a set, far from photos"),
        ("seg_error", 0.3, "most classes are"),
        ("ssim", math.nan, None),
        ("l1", 0.1, None),
    ],
)
def test_scores_have_plain_words(name: str, value: float, words: str | None) -> None:
    assert plain_words(name, value) == words


def test_trend_says_whether_more_time_helps() -> None:
    assert "more time helps" in str(trend({10: 5.0, 20: 4.0, 30: 3.0, 40: 2.0}))
    assert "get worse" in str(trend({10: 5.0, 20: 4.0, 30: 3.0, 40: 4.0}))
    assert "hardly" in str(trend({10: 5.0, 20: 4.0, 30: 3.0, 40: 3.0}))
    assert trend({10: 1.0}) is None


@pytest.mark.parametrize("finished", [True, False])
def test_next_commands_are_commands(finished: bool, tmp_path: Path) -> None:
    commands = get_command(cli.app).commands  # type: ignore[attr-defined]
    found = [
        shlex.split(command) for command, _ in next_commands(tmp_path / "a b", tmp_path / "a b/run", finished=finished)
    ]
    for program, name, *words in found:
        assert program == "lab2pix"
        commands[name].make_context(name, words)
    assert any("--resume" in words for words in found) != finished


def test_painter_follows_the_run(tmp_path: Path) -> None:
    words = runner.painter_command(tmp_path)
    assert words[2:] == ["lab2pix", "paint", str(tmp_path), "--follow", "--port", "0"]


def test_too_few_photos_are_refused_before_they_are_labeled(draw: Draw, tmp_path: Path, run: Run) -> None:
    words = ("fit", draw("photos", count=5), "--out", tmp_path / "out", "--segmenter", "nothing")
    sentence(run(*words), "5 photos are too few", "200 or more")
    assert not (tmp_path / "out").exists()
