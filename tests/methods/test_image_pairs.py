"""What methods of image translation share: passes per step, label maps in colors, and recorded images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from lab2pix.batch import Batch
from lab2pix.errors import CheckpointError
from lab2pix.inference import Synthesizer
from lab2pix.inference.convert import convert
from lab2pix.interop.keymap import rename
from lab2pix.interop.vectors import read_vectors
from lab2pix.methods import StepContext
from lab2pix.methods.image_translation import released_rules
from lab2pix.methods.step_record import RecordedRandom
from lab2pix.nn.munit import MUNITGenerator, MUNITSettings
from lab2pix.nn.patchgan import PatchGAN
from lab2pix.nn.resnet import ResNetGenerator
from lab2pix.nn.unet import UNetGenerator
from tests.helpers.methods import narrow_method, training_inputs

QUICK = ("train.batch_size=2", "data.size=[16,16]", "generator.width=2", "discriminator.width=2")
PATCHES = ("projection.width=4", "projection.patches=6", "projection.layers=[4,12]")
SETTINGS = {
    "pix2pix-small": (*QUICK, "discriminator.layers=1", "generator.depth=4"),
    "pix2pixhd-small": (*QUICK, "generator.downsamplings=1", "generator.blocks=1", "loss.perceptual=0"),
    "cut-small": (*QUICK, *PATCHES, "generator.depth=1", "discriminator.layers=2"),
    "dclgan-small": (*QUICK, *PATCHES, "generator.depth=1", "discriminator.layers=2"),
    "munit-small": (*QUICK, "generator.mlp_width=4", "generator.blocks=1", "discriminator.scales=2"),
}


@pytest.mark.parametrize(
    ("preset", "part", "passes"),
    [
        ("pix2pix-small", "generator", (1, 2)),
        ("pix2pixhd-small", "generator", (1, 1)),
        ("pix2pixhd-small", "discriminator", (3, 4)),
        ("cut-small", "generator", (1, 2)),
        ("dclgan-small", "generator_a", (2, 4)),
        ("munit-small", "generator_a.enc_content", (2, 3)),
    ],
)
def test_networks_run_as_rarely_as_micro_batches_allow(preset: str, part: str, passes: tuple[int, int]) -> None:
    method = narrow_method(preset, *SETTINGS[preset])
    batch, noise = training_inputs(method)
    codes, places = [torch.randn(2, 8) for _ in range(3)], [torch.randperm(16)[:6] for _ in range(4)]
    network, _, path = part.partition(".")
    ran: list[int] = []
    method.networks[network].get_submodule(path).register_forward_hook(lambda *_: ran.append(1))
    gradients = []
    for micro_batches, count in zip((1, 2), passes, strict=True):
        ran.clear()
        random = RecordedRandom(normal=codes, permutation=places)
        context = StepContext(micro_batches=micro_batches, random=random)
        for phase in method.phases:
            phase.backward(batch, noise, context)
        assert len(ran) == count
        gradients.append([p.grad.clone() for p in method.networks[network].parameters() if p.grad is not None])
        for each in method.networks.values():
            each.zero_grad()
    assert all(torch.allclose(one, two, atol=1e-5) for one, two in zip(*gradients, strict=True))


# --- the authors' checkpoints -------------------------------------------------------------------------------------


def munit_checkpoint() -> dict[str, torch.Tensor]:
    settings = MUNITSettings(width=2, mlp_width=4, style_dim=3, blocks=1)
    sides = {domain: MUNITGenerator.build(3, 3, settings).state_dict() for domain in "ab"}
    return {f"{domain}.module.{name}": weight for domain in "ab" for name, weight in sides[domain].items()}


@pytest.mark.parametrize(
    ("form", "weights"),
    [
        ("pix2pix", lambda: rename(unet := UNetGenerator(3, width=2, levels=4), released_rules(unet))),
        ("cyclegan", lambda: ResNetGenerator(3, width=2, blocks=1).state_dict()),
        (
            "cut",
            lambda: ResNetGenerator(3, width=2, blocks=1, antialias_down=True, antialias_up=True).state_dict(),
        ),
        ("munit", munit_checkpoint),
    ],
)
def test_converted_generator_takes_label_maps_in_colors(
    tmp_path: Path, form: str, weights: Callable[[], dict[str, torch.Tensor]]
) -> None:
    file, size = tmp_path / "latest_net_G.pth", (64, 64)
    torch.save(weights(), file)
    convert(file, form, tmp_path / "photo", size=size)
    convert(file, form, tmp_path / "labels", size=size, label_space="facades")
    photo, labels = (Synthesizer.load(tmp_path / name, device="cpu") for name in ("photo", "labels"))
    ids = torch.arange(64 * 64).view(size) % 12
    assert torch.equal(photo(labels.label_space.to_colors(ids)).tensor, labels(ids).tensor)
    with pytest.raises(CheckpointError, match="line drawings have one; leave out --label-space"):
        convert(file, form, tmp_path / "lines", label_space="sketch")


@pytest.mark.parametrize(
    ("form", "prefix", "source", "output"),
    [
        ("cut", "G.", "A", "fake_B"),
        ("dclgan", "G_A.", "A", "fake_B"),
        ("dclgan", "G_B.", "B", "fake_A"),
    ],
)
def test_converted_generators_draw_the_recorded_images(
    golden_root: Path, tmp_path: Path, form: str, prefix: str, source: str, output: str
) -> None:
    vectors = read_vectors(golden_root / "peers" / f"{form}_a.safetensors")
    weights = {f"module.{name}": weight for name, weight in vectors.part(prefix).items()}
    torch.save(weights, tmp_path / "latest_net_G.pth")
    convert(tmp_path / "latest_net_G.pth", form, tmp_path / "out", size=(64, 64))
    synthesizer = Synthesizer.load(tmp_path / "out", device="cpu")
    batch = Batch(torch.empty(2, 0, 0, dtype=torch.int64), source=vectors.tensors[f"in.{source}"])
    drawn = synthesizer.generate(batch, torch.empty(2, 0))
    assert (drawn - vectors.tensors[f"out.{output}"]).abs().max() <= 1e-4


@pytest.mark.parametrize(
    ("network", "form", "message"),
    [
        (lambda: ResNetGenerator(3, width=2, blocks=1), "cut", "format 'cyclegan'; say --from cyclegan"),
        (
            lambda: ResNetGenerator(3, width=2, blocks=1, antialias_down=True, antialias_up=True),
            "cyclegan",
            "format 'cut'; say --from cut",
        ),
        (lambda: PatchGAN(3, width=2, antialias=True), "dclgan", "holds no generator of format 'dclgan'"),
        (lambda: PatchGAN(3, width=2), "pix2pix", "holds no generator of format 'pix2pix'"),
    ],
)
def test_convert_names_the_right_format(
    tmp_path: Path, network: Callable[[], nn.Module], form: str, message: str
) -> None:
    torch.save(network().state_dict(), tmp_path / "latest_net.pth")
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "latest_net.pth", form, tmp_path / "out")
