"""Pix2Pix and CycleGAN: settings, steps, image pools, source images, and the command line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lab2pix.errors import CheckpointError, DataError
from lab2pix.inference import Synthesizer
from lab2pix.methods import Progress, StepContext, epoch_decay, example_inputs, generate_deterministic
from lab2pix.recipes import load_config
from lab2pix.training.loop import train
from tests.helpers.methods import narrow_method

QUICK = ("monitor.tensorboard=false", "train.batch_size=2", "data.size=[16,16]", "train.ema_decay=null")
TINY = (*QUICK, "generator.width=2", "discriminator.width=2", "discriminator.layers=1")
PIX2PIX, CYCLEGAN = (
    (*TINY, "generator.depth=4"),
    (*TINY, "generator.depth=1", "generator.encoding=one-hot", "loss.pool_size=2"),
)


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reach_zero", "first_fallen", "last"), [(False, 101, 1 / 101), (True, 100, 0.0)])
def test_epoch_decay_falls_once_per_epoch_to_its_last_value(reach_zero: bool, first_fallen: int, last: float) -> None:
    schedule = epoch_decay(0.5, reach_zero=reach_zero)
    factors = [schedule(Progress(step, 800, samples=8, batch_size=2)) for step in range(800)]
    assert factors[::4] == factors[3::4]
    assert factors[:800:4][: first_fallen - 1] == [1.0] * (first_fallen - 1)
    assert factors[4 * (first_fallen - 1)] == pytest.approx(100 / 101)
    assert factors[-1] == pytest.approx(last)


# --- steps --------------------------------------------------------------------------------------------------------


def test_pix2pix_samples_in_train_mode_by_the_noise() -> None:
    settings = ("generator.sampling=train", "generator.dropout=0.5", "data.size=[64,64]", "generator.depth=6")
    method = narrow_method("pix2pix-small", *PIX2PIX, *settings)
    generator = method.networks["generator"].eval()
    batch, noise = example_inputs(method.sampling, (64, 64), 1)
    assert noise is not None and noise.shape == (1, 1)
    one, again, other = (
        generate_deterministic(generator, method.sampling, batch, z)[0] for z in (noise, noise, noise + 1)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.slow
def test_cyclegan_shows_discriminators_images_of_the_pool() -> None:
    method = narrow_method("cyclegan-small", *CYCLEGAN)
    torch.manual_seed(0)
    for step in range(6):
        batch, _ = example_inputs(method.sampling, (16, 16), 2, seed=step)
        batch = type(batch)(label=batch.label, image=torch.rand(2, 3, 16, 16))
        context = StepContext()
        for phase in method.phases:
            phase.backward(batch, None, context)
    state = method.extra_state()
    assert {name: tuple(pool.shape[:2]) for name, pool in state.items()} == {
        "pool_a": (2, method.sampling.condition.channels),
        "pool_b": (2, 3),
    }
    with pytest.raises(CheckpointError, match="lacks CycleGAN's image pool 'a'"):
        method.load_extra_state({})


# --- images as inputs ---------------------------------------------------------------------------------------------


def write_images(folder: Path, names: str, channels: int = 3, width: int = 20) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in names:
        pixels = random.integers(0, 256, (20, width, channels), dtype=np.uint8)
        Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(folder / f"{name}.png")


@pytest.mark.slow
def test_cyclegan_trains_on_two_folders_and_resumes_exactly(tmp_path: Path) -> None:
    write_images(tmp_path / "data/trainA", "abc")
    write_images(tmp_path / "data/trainB", "xyzw")
    write_images(tmp_path / "data/testA", "p")
    write_images(tmp_path / "data/testB", "q")
    settings = [
        *CYCLEGAN,
        *("data.input=images", "data.format=unaligned", f"data.root={tmp_path / 'data'}", "data.val_split=test"),
        *("data.resize=[18,18]", "train.steps=4", "train.batch_size=1", "checkpoint.every=2", "checkpoint.keep=9"),
    ]
    config = load_config("cyclegan-small", settings)
    assert train(config, tmp_path / "whole", device="cpu").step == 4
    whole = load_file(tmp_path / "whole/checkpoints/step-00000004/training.safetensors")
    assert any(name.startswith("extra.0.pool_a") for name in whole)
    shutil.rmtree(tmp_path / "whole/checkpoints/step-00000004")
    assert train(None, tmp_path / "whole", resume=True, device="cpu").step == 4
    again = load_file(tmp_path / "whole/checkpoints/step-00000004/training.safetensors")
    assert whole.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


@pytest.mark.slow
def test_pix2pix_trains_and_generates_from_pairs_in_one_file(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    write_images(tmp_path / "data/train", "abc", width=40)
    write_images(tmp_path / "data/val", "d", width=40)
    settings = ["data.input=images", "data.format=ab", f"data.root={tmp_path / 'data'}", "data.source.channels=1"]
    words = ["pix2pix-small", *PIX2PIX, *settings, "train.steps=2", "monitor.sample_every=2"]
    assert run("train", *words, "--out", tmp_path / "run", "--device", "cpu")[0] == 0
    where = ("--format", "ab", "--split", "val", "--device", "cpu")
    assert run("generate", tmp_path / "run", tmp_path / "data", "--out", tmp_path / "out", *where)[0] == 0
    assert Image.open(tmp_path / "out/d.png").size == (16, 16)
    write_images(tmp_path / "gray", "e", channels=1)
    synthesizer = Synthesizer.load(tmp_path / "run", device="cpu")
    file, array = tmp_path / "gray/e.png", np.array(Image.open(tmp_path / "gray/e.png"))
    drawn = synthesizer(file).tensor
    assert torch.equal(drawn, synthesizer(array).tensor)
    assert torch.equal(drawn, synthesizer(torch.from_numpy(array)[None]).tensor)
    assert not torch.equal(drawn, synthesizer(255 - array).tensor)
    with pytest.raises(DataError, match=r"the source image has 5 channels, but data\.source\.channels is 1"):
        synthesizer(np.zeros((20, 20, 5), np.uint8))


# --- the authors' checkpoints -------------------------------------------------------------------------------------
