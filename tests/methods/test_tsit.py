"""TSIT: settings, steps of both tasks, data, and the authors' checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lab2pix.errors import CheckpointError, ConfigError, DataError
from lab2pix.inference import Synthesizer
from lab2pix.inference.convert import convert
from lab2pix.interop.keymap import rename
from lab2pix.interop.vectors import read_vectors
from lab2pix.methods import Method, StepContext
from lab2pix.methods.tsit import _GENERATOR_RULES
from lab2pix.nn.init import init_weights
from lab2pix.nn.tsit import TSITGenerator, TSITSettings
from lab2pix.recipes import load_config
from lab2pix.training.loop import train
from tests.helpers.checkpoints import space_file, write_networks
from tests.helpers.methods import narrow_method, training_inputs

TINY = (
    *("monitor.tensorboard=false", "train.batch_size=2", "train.ema_decay=null", "data.size=[16,16]"),
    *("generator.width=2", "generator.num_upsamples=3", "discriminator.width=2", "loss.perceptual=0"),
)


def build(preset: str, *settings: str) -> Method:
    return narrow_method(preset, *TINY, *settings)


# --- settings -----------------------------------------------------------------------------------------------------


# --- steps --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_style_mode_learns_an_encoder_with_a_divergence() -> None:
    method = build("tsit-small", "generator.input=style", "generator.noise_dim=4")
    batch, noise = training_inputs(method)
    losses = [phase.backward(batch, noise, StepContext()) for phase in method.phases]
    assert set(losses[0]) == {"kl_divergence", "adversarial", "feature_matching"}
    encoder = method.networks["generator"].image_encoder
    assert all(weight.grad is not None for weight in encoder.parameters())  # type: ignore[union-attr,operator]


def test_transfer_judges_images_alone_with_the_style_image_as_real() -> None:
    method = build("tsit-transfer-small", "data.resize=null")
    seen: list[Tensor] = []
    method.networks["discriminator"].register_forward_hook(lambda _, given, __: seen.append(given[0][0]))
    batch, noise = training_inputs(method)
    for phase in method.phases:
        phase.backward(batch, noise, StepContext())
    assert [tuple(one.shape) for one in seen] == [(2, 3, 16, 16), (2, 3, 16, 16), (4, 3, 16, 16)]
    assert torch.equal(seen[1], batch.image)
    assert torch.equal(seen[2][2:], batch.image)


def test_transfer_compares_content_with_the_source_image() -> None:
    method = build("tsit-transfer-small", "data.resize=null", "loss.perceptual=1")
    batch, _ = training_inputs(method)
    assert torch.equal(method.perceptual_target(batch), batch.source)  # type: ignore[attr-defined,arg-type]
    assert method.score_names == ("perceptual",)
    assert method.validation_scores(batch, batch.source)["perceptual"] == 0
    with pytest.raises(DataError, match="give source images"):
        method.perceptual_target(replace(batch, source=None))  # type: ignore[attr-defined]


def write_images(folder: Path, names: str) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in names:
        Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{name}.png")


@pytest.mark.slow
def test_transfer_trains_on_two_folders_and_draws_with_a_style(tmp_path: Path) -> None:
    for folder, names in (("trainA", "ab"), ("trainB", "xyz"), ("testA", "p"), ("testB", "q")):
        write_images(tmp_path / "data" / folder, names)
    settings = [f"data.root={tmp_path / 'data'}", "data.resize=[18,18]", "train.steps=2", "monitor.sample_every=2"]
    config = load_config("tsit-transfer-small", [*TINY, *settings, "train.epochs=null", "train.init_gain=1"])
    train(config, tmp_path / "run", device="cpu")
    synthesizer = Synthesizer.load(tmp_path / "run", device="cpu")
    content, styles = tmp_path / "data/testA/p.png", [tmp_path / f"data/trainB/{name}.png" for name in "xy"]
    one, again, other = (synthesizer(content, style=style).tensor for style in (styles[0], styles[0], styles[1]))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    with pytest.raises((DataError, ConfigError), match="style"):
        synthesizer(content)


# --- the authors' checkpoints ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_converted_transfer_generator_draws_the_authors_images(golden_root: Path, tmp_path: Path) -> None:
    vectors = read_vectors(golden_root / "peers" / "tsit_ast_a.safetensors")
    file = write_networks(tmp_path, vectors.tensors)
    assert convert(file, "tsit", tmp_path / "out").config.method == "tsit-transfer"
    synthesizer = Synthesizer.load(tmp_path / "out", device="cpu")
    for row in range(2):
        content, style = (vectors.tensors[f"in.{name}"][row].movedim(0, -1).numpy() for name in ("content", "image"))
        batch = synthesizer.read(content, style=style)
        image = synthesizer.generate(batch, vectors.tensors["in.noise.eval"][row : row + 1].float())
        assert (image[0, :, ::4, ::4] - vectors.tensors["out.eval.fake"][row]).abs().max() < 1e-4


def write_generator(folder: Path, network: TSITGenerator) -> Path:
    return write_networks(folder, {f"G.{name}": tensor for name, tensor in rename(network, _GENERATOR_RULES).items()})


def random_generator(channels: int) -> TSITGenerator:
    torch.manual_seed(0)
    network = TSITGenerator(channels, TSITSettings(width=1))
    init_weights(network, "xavier", 0.5)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize("classes", [4, 5])
def test_convert_adds_a_channel_for_unknown_pixels(tmp_path: Path, classes: int) -> None:
    network = random_generator(4)
    file = write_generator(tmp_path, network)
    space = space_file(tmp_path, 4 if classes == 4 else 3, unknown=True)
    made = convert(file, "tsit", tmp_path / "out", label_space=str(space), size=(128, 256), instance_edges=False)
    assert made.generator.content.blocks[0].conv_0.in_channels == (5 if classes == 4 else 4)  # type: ignore[union-attr,index]
    ids = torch.randint(3, (1, 8, 16)).repeat_interleave(16, 1).repeat_interleave(16, 2)
    seen = torch.nn.functional.one_hot(ids, 4).movedim(-1, 1).float().contiguous()
    synthesizer = Synthesizer.load(tmp_path / "out", device="cpu")
    image = synthesizer.generate(synthesizer.read(ids[0]), torch.empty(1, 0))
    with torch.no_grad():
        expected = network(seen)
    assert 0.01 < expected.abs().mean() < 0.9
    assert (image - expected).abs().max() < 1e-4


@pytest.mark.slow
def test_convert_moves_the_unknown_channel_of_ade20k_last(tmp_path: Path) -> None:
    network = random_generator(151)
    file = write_generator(tmp_path, network)
    made = convert(file, "tsit", tmp_path / "out", label_space="ade20k", size=(128, 256))
    ids = torch.randint(151, (1, 4, 8)).repeat_interleave(32, 1).repeat_interleave(32, 2)
    values = (ids + 1) % 151  # the value in a label file: 0 is unknown, 1 the first class
    seen = torch.nn.functional.one_hot(values, 151).movedim(-1, 1).float().contiguous()
    with torch.no_grad():
        ours, expected = made.generator(made.label_space.one_hot(ids)), network(seen)
    assert 0.01 < expected.abs().mean() < 0.9
    assert (ours - expected).abs().max() < 1e-4


@pytest.mark.slow
def test_convert_refuses_another_size_of_the_first_scale(tmp_path: Path) -> None:
    network = TSITGenerator(4, TSITSettings(width=1, input="noise", noise_dim=8, start_size=(1, 2)))
    file = write_generator(tmp_path, network)
    space = str(space_file(tmp_path, 4))
    with pytest.raises(ConfigError, match=r"noise becomes a map of 2 pixels; say --size with 2 squares of 128x128"):
        convert(file, "tsit", tmp_path / "out", label_space=space, size=(256, 256))
    assert convert(file, "tsit", tmp_path / "out", label_space=space, size=(128, 256)).config.generator.input == "noise"
    with pytest.raises(CheckpointError, match="say --from tsit"):
        convert(file, "spade", tmp_path / "other", label_space=space)
