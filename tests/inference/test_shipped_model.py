"""Shipped model: file size, and agreement of images with label maps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lab2pix import LabelSpace, Synthesizer
from lab2pix.data.label_maps import write_label_png
from lab2pix.data.scenes.dataset import draw_scene
from lab2pix.inference import weights
from lab2pix.recipes import load_config

NAME = "scenes"
UNSEEN = 123_456
"""Index of scenes that no training drew: it took the first thousands."""

pytestmark = pytest.mark.skipif(NAME not in weights.shipped_models(), reason="this copy was made without the model")


@pytest.fixture(scope="module")
def model() -> Synthesizer:
    return Synthesizer.load(NAME, device="cpu")


def scene(index: int) -> tuple[Tensor, Tensor]:
    return draw_scene(0, UNSEEN + index, (256, 256))


def test_shipped_model_is_small_and_contains_no_local_path() -> None:
    folder = weights.shipped_models()[NAME].parent
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["README.md", "config.json", "model.safetensors"]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 12e6
    told = json.loads((folder / "config.json").read_text())
    paths = [value for value in strings(told["config"]) if value.startswith(("/", "~"))]
    assert not paths


def test_models_of_other_packages_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, info = tmp_path / "lab2pix_meadows", tmp_path / "lab2pix_meadows-1.0.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").write_text("raise ImportError('looking for a model imports no package')")
    (package / "model.safetensors").write_bytes(b"weights")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab2pix-meadows\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[lab2pix.models]\nmeadows = lab2pix_meadows\nscenes = lab2pix_meadows\nlost = lab2pix_lost\n"
    )
    before = weights.shipped_models()
    monkeypatch.syspath_prepend(tmp_path)
    assert weights.shipped_models() == {**before, "meadows": package / "model.safetensors"}
    assert weights.find("meadows") == package / "model.safetensors"


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in strings(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in strings(inner)]
    return [value] if isinstance(value, str) else []


@pytest.mark.slow
def test_shipped_model_matches_its_preset(model: Synthesizer) -> None:
    preset = load_config("v2-scenes")
    for section in ("generator", "loss"):
        assert getattr(model.config, section) == getattr(preset, section)
    assert model.size == preset.data.size == (256, 256)
    assert model.label_space.names == LabelSpace.load("scenes").names


@pytest.mark.slow
def test_shipped_model_follows_the_label_map(model: Synthesizer) -> None:
    """In 16x16 cells, one of a few lights is much nearer to the scene than any is to another one."""
    pairs = [scene(index) for index in range(4)]
    real = torch.stack([cells(image) for image, _ in pairs])
    drawn = torch.stack([cells(model(label, seed=0, samples=6).tensor) for _, label in pairs])

    def distance(scenes: Tensor) -> float:
        return float((drawn - scenes[:, None]).abs().mean((2, 3, 4)).min(1).values.mean())

    assert distance(real) < 0.5 * distance(real.roll(1, 0))


def cells(image: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(image.float() / 255, 16)


@pytest.mark.slow
def test_shipped_model_draws_each_class_differently(model: Synthesizer) -> None:
    means = []
    for index in range(model.label_space.num_classes):
        label = torch.zeros(256, 256, dtype=torch.int64)
        label[96:, 64:192] = index
        means.append(model(label, seed=1).tensor[0][:, 128:, 96:160].float().mean((1, 2)))
    means = torch.stack(means)
    distance = (means[:, None] - means[None]).abs().max(-1).values + 255 * torch.eye(len(means))
    assert float(distance.min()) > 2


@pytest.mark.slow
def test_shipped_model_noise_changes_the_light(model: Synthesizer) -> None:
    spreads = []
    for index in range(3):
        _, label = scene(index)
        pictures = model(label, seed=0, samples=6).tensor.float()
        assert torch.equal(model(label, seed=0).tensor[0].float(), pictures[0])
        sky = pictures[:, :, label == model.label_space.names.index("sky")].mean(-1)
        spreads.append(float((sky.max(0).values - sky.min(0).values).max()))
    assert max(spreads) > 10  # of 255, in some colour of the mean sky


@pytest.mark.slow
def test_shipped_model_fast_mode_matches_plain(model: Synthesizer) -> None:
    fast = Synthesizer.load(NAME, device="cpu", optimize="fast")
    labels = [scene(index)[1] for index in range(2)]
    labels += [np.full_like(labels[0], label) for label in range(model.label_space.num_classes)]  # a class alone
    for index, label in enumerate(labels):
        batch, noise = model.read(label), model.noise(index)[None]
        assert float((fast.generate(batch, noise) - model.generate(batch, noise)).abs().max()) <= 1e-4


@pytest.mark.slow
def test_generate_command_finds_the_shipped_model_by_name(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    write_label_png(labels / "one.png", scene(0)[1], LabelSpace.load("scenes"))
    code, _, error = run("generate", NAME, labels, "--out", tmp_path / "out", "--fast", "--device", "cpu")
    assert code == 0, error
    [file] = (tmp_path / "out").glob("**/*.png")
    with Image.open(file) as picture:
        assert picture.size == (256, 256)
