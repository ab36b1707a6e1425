"""Conversion of SPADE's and CC-FPSE's checkpoints: equal images, image encoders, ADE20K's order of channels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.data.transforms import instance_edges
from lab2pix.errors import CheckpointError
from lab2pix.inference import Synthesizer, convert
from lab2pix.interop.keymap import rename
from lab2pix.interop.spade_weights import generator_rules
from lab2pix.methods.cc_fpse import generator_rules as cc_fpse_rules
from lab2pix.nn.cc_fpse import CCFPSEGenerator
from lab2pix.nn.generators import GeneratorSettings, Lab2PixV2Generator


def space_file(folder: Path, classes: int, *, unknown: bool = False) -> str:
    file = folder / "own.yaml"
    names = ", ".join(f"thing{index}" for index in range(classes))
    file.write_text(f"classes: [{names}]\n" + "unknown_value: 255\n" * unknown)
    return str(file)


def unpack(held: dict[str, Tensor], folder: Path, networks: str) -> Path:
    """Write networks of a recording as the authors' code saves them; return the generator's file."""
    for network in networks:
        state = {name[2:]: tensor for name, tensor in held.items() if name.startswith(f"{network}.")}
        torch.save(state, folder / f"latest_net_{network}.pth")
    return folder / "latest_net_G.pth"


def recorded_batch(held: dict[str, Tensor], style: bool) -> Batch:
    image = held["in.image"].float() / 127.5 - 1
    return Batch(
        held["in.label"].long(), edges=instance_edges(held["in.instance"].long()), style=image if style else None
    )


@pytest.mark.slow
def test_label_mode_draws_the_recorded_images(golden_root: Path, tmp_path: Path) -> None:
    held = load_file(golden_root / "peers" / "spade_a.safetensors")
    done = convert(
        unpack(held, tmp_path, "G"), "spade", tmp_path / "out",
        label_space=space_file(tmp_path, 7), size=(64, 128), num_upsamples=6,
    )  # fmt: skip
    assert (done.config.method, done.config.generator.input, done.config.data.instance_edges) == (
        "spade", "label", True,
    )  # fmt: skip
    image = Synthesizer.load(tmp_path / "out", device="cpu").generate(recorded_batch(held, False), torch.zeros(2, 0))
    assert (image - held["out.eval.fake"]).abs().max() <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form", "classes"), [("spade_vae_a", "spade", 8), ("ccfpse_a", "cc-fpse", 6)])
def test_style_mode_draws_the_recorded_images(
    golden_root: Path, tmp_path: Path, name: str, form: str, classes: int
) -> None:
    held = load_file(golden_root / "peers" / f"{name}.safetensors")
    file, space = unpack(held, tmp_path, "GE"), space_file(tmp_path, classes, unknown=True)
    done = convert(file, form, tmp_path / "out", label_space=space, size=(64, 64))
    assert done.config.method == form
    assert done.config.generator.input == "style"
    synthesizer = Synthesizer.load(tmp_path / "out", device="cpu")
    image = synthesizer.generate(recorded_batch(held, True), held["in.eps.eval"].float())
    assert (image - held["out.eval.fake"]).abs().max() <= 1e-4
    # Without the encoder's file, noise alone takes its place.
    (tmp_path / "latest_net_E.pth").unlink()
    alone = convert(file, form, tmp_path / "alone", label_space=space, size=(64, 64))
    assert alone.config.generator.input == "noise"
    noise = torch.randn(2, 256)
    images = [
        Synthesizer.load(tmp_path / folder, device="cpu").generate(recorded_batch(held, False), noise)
        for folder in ("out", "alone")
    ]
    assert torch.equal(*images)


def test_file_of_another_network_next_to_the_generator_is_refused(golden_root: Path, tmp_path: Path) -> None:
    held = load_file(golden_root / "peers" / "spade_vae_a.safetensors")
    file = unpack(held, tmp_path, "GD")
    (tmp_path / "latest_net_D.pth").rename(tmp_path / "latest_net_E.pth")
    with pytest.raises(CheckpointError, match=r"latest_net_E.pth holds no image encoder of SPADE"):
        convert(file, "spade", tmp_path / "out", label_space=space_file(tmp_path, 8, unknown=True), size=(64, 64))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["spade", "cc-fpse"])
@pytest.mark.parametrize("spectral_norm", [True, False])
def test_ade20k_unknown_moves_from_the_first_channel_to_the_last(
    tmp_path: Path, form: str, spectral_norm: bool
) -> None:
    torch.manual_seed(0)
    settings = GeneratorSettings(
        width=2, modulation="spade", modulation_hidden=3, input="label", start_size=(1, 2), spectral_norm=spectral_norm
    )
    kind, rules = {
        "spade": (Lab2PixV2Generator, generator_rules(5)),
        "cc-fpse": (CCFPSEGenerator, cc_fpse_rules(5)),
    }[form]
    theirs = kind(151, settings).eval()
    torch.save(rename(theirs, rules), tmp_path / "latest_net_G.pth")
    convert(tmp_path / "latest_net_G.pth", form, tmp_path / "out", size=(32, 64))
    synthesizer = Synthesizer.load(tmp_path / "out", device="cpu", expect_label_space="ade20k")
    values = torch.randint(0, 151, (1, 4, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)  # as in label files
    values[0, 0, 0] = 0
    condition = torch.zeros(1, 151, 32, 64).scatter_(1, values[:, None], 1.0)
    with torch.no_grad():
        expected = theirs(condition)
    ids = synthesizer.label_space.decode_ids(values[0], "the label map")[None]
    assert int(ids[0, 0, 0]) == 150
    assert (synthesizer.generate(Batch(ids), torch.zeros(1, 0)) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("name", "form", "network", "words"),
    [
        ("spade_a", "spade", "D", "it holds discriminators of SPADE"),
        ("spade_vae_a", "spade", "E", "it holds an image encoder of SPADE"),
        ("ccfpse_a", "cc-fpse", "D", "it holds a discriminator of CC-FPSE"),
        ("ccfpse_a", "spade", "G", "a generator of format 'cc-fpse'; say --from cc-fpse"),
    ],
)
def test_other_networks_are_named(
    golden_root: Path, tmp_path: Path, name: str, form: str, network: str, words: str
) -> None:
    held = load_file(golden_root / "peers" / f"{name}.safetensors")
    unpack(held, tmp_path, network)
    with pytest.raises(CheckpointError, match=words):
        convert(tmp_path / f"latest_net_{network}.pth", form, tmp_path / "out")
