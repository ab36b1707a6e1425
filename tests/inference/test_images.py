"""Generated images, and the Python interface by names and overrides."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lab2pix
from lab2pix.errors import ConfigError, DataError
from lab2pix.inference import Synthesizer
from lab2pix.inference.images import GeneratedImages
from lab2pix.recipes import load_config
from tests.helpers.generators import tiny_synthesizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_synthesizer().save(tmp_path_factory.mktemp("model") / "weights")


def test_model_is_loaded_by_name_and_shown(model: Path) -> None:
    synthesizer = Synthesizer(model, device="cpu")
    assert "'scenes'" in repr(synthesizer)
    assert "64x64 (height x width)" in repr(synthesizer)
    assert synthesizer.to("cpu") is synthesizer
    with pytest.raises(ConfigError, match="pass its ModelInfo"):
        Synthesizer(synthesizer.generator)


def test_several_label_maps_of_any_type_come_out_in_order(model: Path, tmp_path: Path) -> None:
    synthesizer = Synthesizer(model, device="cpu")
    ids = torch.zeros(64, 64, dtype=torch.int64)
    ids[32:] = 5
    Image.fromarray(ids.numpy().astype(np.uint8)).save(tmp_path / "a.png")
    output = synthesizer([ids, ids.numpy(), tmp_path / "a.png", Image.open(tmp_path / "a.png")], samples=2)
    assert (len(output), output.tensor.shape, output.tensor.dtype) == (8, (8, 3, 64, 64), torch.uint8)
    alone = synthesizer(ids, samples=2)
    assert all(torch.equal(output.tensor[index : index + 2], alone.tensor) for index in (0, 2, 4, 6))
    assert np.array_equal(np.asarray(alone.images[1]), alone.tensor[1].permute(1, 2, 0).numpy())
    with pytest.raises(ConfigError, match="2 label maps and 1 instance maps"):
        synthesizer([ids, ids], instances=[ids])


def test_notebook_shows_a_sheet_and_sizes_may_differ() -> None:
    images = GeneratedImages([torch.zeros(3, 8, 10, dtype=torch.uint8), torch.zeros(3, 6, 4, dtype=torch.uint8)])
    assert "2 images, 6x4, 8x10" in repr(images)
    with Image.open(io.BytesIO(images._repr_png_())) as sheet:
        assert sheet.size == (24, 8)
    with pytest.raises(ConfigError, match="images of 2 sizes"):
        images.tensor.sum()


def test_overrides_by_name_replace_the_duration_of_a_preset() -> None:
    config = load_config("v2-facades", {"train.steps": 3, "data.root": "here", "data.size": [64, 64]})
    assert (config.train.steps, config.train.epochs, config.data.root, config.data.size) == (3, None, "here", (64, 64))
    assert load_config("v2-small", {"train.epochs": 2}).train.steps is None
    assert load_config("v2-small", "train.steps=3").train.steps == 3
    with pytest.raises(ConfigError, match="only one may be set"):
        load_config("v2-small", {"train.epochs": 2, "train.steps": 3})


@pytest.mark.slow
def test_training_by_the_name_of_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    narrow = {"generator.width": 2, "generator.global_encoder.width": 2, "discriminator.width": 2}
    result = lab2pix.train("v2-small", {"train.steps": 1, "train.batch_size": 2, **narrow}, out="~/mine", device="cpu")
    assert result.path == tmp_path / "mine"
    assert len(lab2pix.Synthesizer(result.path, device="cpu")(torch.zeros(64, 64, dtype=torch.int64))) == 1


@pytest.mark.slow
def test_images_in_memory_have_the_scores_of_their_files(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (2, 4, 3, 32, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for name, images in zip(("generated", "real"), pixels, strict=True):
        (tmp_path / name).mkdir()
        for index, image in enumerate(images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / name / f"{index:06d}.png")
    files = lab2pix.evaluate_folders(tmp_path / "generated", tmp_path / "real", device="cpu")
    arrays = pixels[0].permute(0, 2, 3, 1).numpy()
    mixed = [Image.fromarray(arrays[0]), arrays[1], *pixels[0, 2:]]
    for generated in (pixels[0], arrays, mixed):
        report = lab2pix.evaluate_images(generated, pixels[1], device="cpu")
        assert {name: score.mean for name, score in report.scores.items()} == pytest.approx(
            {name: score.mean for name, score in files.scores.items()}
        )
    assert "psnr" not in lab2pix.evaluate_images(pixels[0], pixels[1, :3], unpaired=True, device="cpu").scores


def test_images_in_memory_that_do_not_fit_are_named() -> None:
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(DataError, match="do not pair"):
        lab2pix.evaluate_images(images, images[:1])
    with pytest.raises(DataError, match="must be RGB of uint8"):
        lab2pix.evaluate_images(images.float(), images)
    with pytest.raises(ConfigError, match="nothing to compare"):
        lab2pix.evaluate_images(images)
