"""Inputs that people pass from Python: accepted alike, or refused in their words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image

import lab2pix
from lab2pix import cli
from lab2pix.data.formats import scan
from lab2pix.errors import CheckpointError, ConfigError, DataError, Lab2PixError
from lab2pix.inference import Synthesizer, generate_folder, weights
from lab2pix.recipes import load_config
from lab2pix.training.run_folder import _check_same
from tests.helpers.generators import tiny_synthesizer

IDS = torch.zeros(64, 64, dtype=torch.int64)
IDS[32:] = 5


@pytest.fixture(scope="module")
def synthesizer() -> Synthesizer:
    return tiny_synthesizer()


def test_shapes_and_colors_are_read_like_ids(synthesizer: Synthesizer) -> None:
    expected = synthesizer(IDS).tensor
    colors = synthesizer.label_space.palette.numpy().astype(np.uint8)[IDS.numpy()]
    for label in (IDS[None], IDS[None, None], IDS[..., None], IDS.numpy()[None], colors, Image.fromarray(colors)):
        assert torch.equal(synthesizer(label).tensor, expected)


def test_generated_images_are_a_sequence_of_pillow_images(synthesizer: Synthesizer) -> None:
    output = synthesizer(IDS, samples=2)
    assert len(output) == len(list(output)) == 2
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(output, output.images, strict=True))
    assert isinstance(output[0], Image.Image)
    assert output[-1].tobytes() == output.images[1].tobytes()


@pytest.mark.parametrize(
    ("label", "seed", "says"),
    [
        ([], 0, "list of label maps is empty"),
        (None, 0, "input is None; give a tensor"),
        (IDS, [1, 2], r"seed is \[1, 2\], which is not a whole number"),
        (IDS, 1.5, "seed is 1.5, which is not a whole number"),
        (IDS, {"tree": 1.5}, "seed is 1.5, which is not a whole number"),
        (torch.nn.functional.one_hot(IDS, 14).movedim(-1, 0), 0, r"Tensor of torch.int64 .*take argmax\(0\)"),
        (np.zeros((64, 64)), 0, r"ndarray of float64 \[64, 64\]"),
        (np.full((64, 64), "a"), 0, "ndarray of <U1"),
    ],
)
def test_inputs_are_refused_in_words_of_the_caller(synthesizer: Synthesizer, label: Any, seed: Any, says: str) -> None:
    with pytest.raises(Lab2PixError, match=says):
        synthesizer(label, seed=seed)


def test_folders_belong_to_generate_folder(synthesizer: Synthesizer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder; give one of its files, .*generate_folder"):
        synthesizer(tmp_path)
    with pytest.raises(DataError, match=r"nonexist\.png; give a label map or a folder"):
        scan("folder", tmp_path / "nonexist.png", None, need_images=False)


def test_models_are_found_by_name_everywhere(tmp_path: Path, synthesizer: Synthesizer) -> None:
    model = synthesizer.save(tmp_path / "model")
    Image.fromarray(IDS.numpy().astype(np.uint8)).save(tmp_path / "l.png")
    assert len(generate_folder(str(model), tmp_path / "l.png", tmp_path / "out").written) == 1
    assert Synthesizer.from_pretrained(model, device="cpu").size == (64, 64)
    assert Synthesizer.from_pretrained("scenes", device="cpu").label_space.name == "scenes"


def test_models_that_are_not_found_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"no model nosuch; give the name of an installed one \(.*scenes"):
        Synthesizer("nosuch")
    with pytest.raises(CheckpointError, match="not None; give one"):
        Synthesizer(None)  # type: ignore[arg-type]

    def unreachable(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no snapshot folder on the local disk. Please check your connection.")

    monkeypatch.setattr(weights, "snapshot_download", unreachable)
    for load in (Synthesizer, Synthesizer.from_pretrained):
        with pytest.raises(CheckpointError, match="the hub was not reached; check the connection"):
            load("org/nosuch")


def test_fractions_are_refused_with_the_conversion() -> None:
    images = torch.zeros(2, 3, 16, 16)
    with pytest.raises(DataError, match=r"\(x \* 255\).round\(\).to\(torch.uint8\)"):
        lab2pix.evaluate_images(images, images)


def test_evaluation_of_a_run_and_images_asks_for_the_photos(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["evaluate", "runs/m", "--generated", "pictures", "--out", "report.json"])
    assert "with --generated, and their photos with --real" in " ".join(capsys.readouterr().err.split())


def test_resuming_with_more_steps_says_how_to_start_from_the_weights() -> None:
    before, after = (load_config("v2-small", {"train.steps": steps}) for steps in (3, 5))
    with pytest.raises(ConfigError, match=r"train.steps \(was 3, asked 5\).*another --out, and train.init_from=runs/m"):
        _check_same(before, after, Path("runs/m"))
