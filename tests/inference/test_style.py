"""Style images: generation, refusals, evaluation with encoded photos, and export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lab2pix.data.label_maps import write_label_png
from lab2pix.errors import ConfigError, DataError
from lab2pix.evaluation.compare import compare
from lab2pix.inference import Synthesizer, generate_folder
from lab2pix.inference.export import export
from lab2pix.testing import check_method
from tests.helpers.images import Means
from tests.helpers.images import export as export_program
from tests.helpers.style import SIZE, SPACE, StyleMethod, plain_synthesizer, style_config, style_synthesizer

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def synthesizer() -> Synthesizer:
    return style_synthesizer()


@pytest.fixture
def label(tmp_path: Path) -> Path:
    file = tmp_path / "labels" / "a.png"
    file.parent.mkdir()
    write_label_png(file, torch.arange(4).repeat_interleave(8).repeat(32, 1), SPACE)
    return file


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "style.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 40, 3)).astype(np.uint8) // 2).save(file)
    return file


@pytest.mark.slow
@pytest.mark.parametrize("needed", [False, True])
def test_methods_with_a_style_keep_the_contract(needed: bool) -> None:
    check_method(StyleMethod, style_config(needed=needed))


def test_style_image_is_read_in_every_form(synthesizer: Synthesizer, label: Path, picture: Path) -> None:
    expected = synthesizer(label, style=picture).tensor
    pixels = np.asarray(Image.open(picture))
    tensor = torch.from_numpy(pixels.copy()).movedim(-1, 0)
    for style in (str(picture), Image.open(picture), pixels, tensor):
        assert torch.equal(synthesizer(label, style=style).tensor, expected)
    near = synthesizer(label, style=tensor.float() / 127.5 - 1).tensor.int()
    assert (near - expected.int()).abs().max() <= 1
    assert not torch.equal(synthesizer(label).tensor, expected)
    assert not torch.equal(synthesizer(label, style=picture, seed=1).tensor, expected)
    assert synthesizer.interpolate(label, 0, 1, 3, style=picture).tensor[0].equal(expected[0])
    with pytest.raises(DataError, match=r"must be RGB.* not torch.int64 \[3, 4, 4\]"):
        synthesizer(label, style=torch.zeros(3, 4, 4, dtype=torch.int64))


def test_style_is_refused_where_it_has_no_use_and_asked_for_where_it_is_needed(label: Path, picture: Path) -> None:
    plain = plain_synthesizer()
    with pytest.raises(ConfigError, match=r"\(run\) has no image encoder for a style image; leave out --style"):
        plain(label, style=picture)
    with pytest.raises(ConfigError, match="needs a style image; give one with --style"):
        style_synthesizer(needed=True)(label)


@pytest.mark.parametrize("keep_size", [False, True])
def test_folder_is_generated_in_one_style(
    synthesizer: Synthesizer, label: Path, picture: Path, tmp_path: Path, keep_size: bool
) -> None:
    [file] = generate_folder(synthesizer, label.parent, tmp_path / "out", style=picture, keep_size=keep_size).written
    expected = synthesizer(label, style=picture, keep_size=keep_size).tensor[0].movedim(0, -1)
    assert np.array_equal(np.asarray(Image.open(file)), expected.numpy())


def test_command_takes_a_style_image(
    run: Run, synthesizer: Synthesizer, label: Path, picture: Path, tmp_path: Path
) -> None:
    model = synthesizer.save(tmp_path / "model")
    words = ("generate", model, label, "--device", "cpu")
    assert run(*words, "--out", tmp_path / "own", "--style", picture)[0] == 0
    assert run(*words, "--out", tmp_path / "free")[0] == 0
    assert (tmp_path / "own" / "a.png").read_bytes() != (tmp_path / "free" / "a.png").read_bytes()
    code, _, errors = run(*words, "--out", tmp_path / "none", "--style", tmp_path / "missing.png")
    assert (code, "missing.png is missing" in errors) == (2, True)


@pytest.mark.slow
def test_report_says_where_the_style_came_from(run: Run, tmp_path: Path) -> None:
    program = export_program(Means(), tmp_path / "means.pt2", {"size": [32, 48]})
    models = {
        "optional": style_synthesizer().save(tmp_path / "optional"),
        "needed": style_synthesizer(needed=True).save(tmp_path / "needed"),
    }

    def evaluate(model: str, *words: str) -> tuple[Path, dict[str, Any]]:
        out = tmp_path / f"{model}{'-'.join(words)}.json"
        code, _, errors = run("evaluate", models[model], "--features", program, "--device", "cpu", "--out", out, *words)
        assert code == 0, errors
        return out, json.loads(out.read_text())

    free, noise = evaluate("optional")
    encoded, photos = evaluate("optional", "--style-from", "photos")
    assert noise["protocol"]["style_from"] == "noise"
    assert photos["protocol"]["style_from"] == "photos"
    assert noise["scores"]["psnr"]["mean"] != photos["scores"]["psnr"]["mean"]
    assert evaluate("needed")[1]["protocol"]["style_from"] == "photos"
    with pytest.raises(DataError, match=r"'style_from' is null in .* but \"photos\" in"):
        compare([free, encoded])


def test_style_from_photos_is_refused_without_an_encoder(run: Run, tmp_path: Path) -> None:
    plain = plain_synthesizer()
    words = ("evaluate", plain.save(tmp_path / "plain"), "--out", tmp_path / "r.json", "--device", "cpu")
    code, _, errors = run(*words, "--style-from", "photos")
    assert (code, "no image encoder" in errors) == (2, True)
    code, _, errors = run(*words, "--style-from", "photo")
    assert (code, "did you mean 'photos'" in errors) == (2, True)


@pytest.mark.slow
def test_program_of_a_generator_that_needs_a_style_takes_it_as_an_input(tmp_path: Path) -> None:
    exported = export(style_synthesizer(needed=True), tmp_path / "program.pt2", form="torch")
    description = json.loads(exported.description.read_text())
    [style] = [entry for entry in description["inputs"] if entry["name"] == "style"]
    assert style["shape"] == [1, 3, *SIZE]
    module = torch.export.load(exported.file).module()
    inputs = {"label": torch.zeros(1, *SIZE, dtype=torch.int64), "noise": torch.zeros(1, 4)}
    dark, bright = (module(**inputs, style=torch.full((1, 3, *SIZE), value)) for value in (-1.0, 1.0))
    assert not torch.equal(dark, bright)
