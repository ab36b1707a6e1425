"""Conversion of checkpoints of other methods for label maps: equal images, encoders, ADE20K's order of channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lab2pix.batch import Batch
from lab2pix.data.transforms import instance_edges
from lab2pix.errors import CheckpointError
from lab2pix.inference import Synthesizer, convert
from lab2pix.interop.keymap import rename
from lab2pix.interop.spade_weights import generator_rules
from lab2pix.interop.step_vectors import to_image
from lab2pix.interop.vectors import read_vectors
from lab2pix.methods.cc_fpse import generator_rules as cc_fpse_rules
from lab2pix.nn.cc_fpse import CCFPSEGenerator
from lab2pix.nn.generators import GeneratorSettings, Lab2PixV2Generator
from tests.helpers.checkpoints import space_file, write_networks

RECORDED: list[tuple[str, str, bool, dict[str, Any]]] = [
    ("spade_a", "spade", False, {"num_upsamples": 6}),
    ("spade_vae_a", "spade", True, {}),
    ("ccfpse_a", "cc-fpse", True, {}),
    ("tsit_a", "tsit", False, {}),
    ("pix2pixhd_a", "pix2pixhd", False, {}),
    ("pix2pixhd_local_a", "pix2pixhd", False, {}),
]
"""Recordings, their format, whether there are unknown pixels, and wishes of the conversion."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form", "unknown", "wishes"), RECORDED, ids=[name for name, *_ in RECORDED])
def test_converted_generators_draw_the_recorded_images(
    golden_root: Path, tmp_path: Path, name: str, form: str, unknown: bool, wishes: dict[str, Any]
) -> None:
    vectors = read_vectors(golden_root / "peers" / f"{name}.safetensors")
    held, recorded = vectors.tensors, vectors.values["config"]
    encoder = any(key.startswith("E.") for key in held)
    file, size = write_networks(tmp_path, held, "GE" if encoder else "G"), tuple(held["in.label"].shape[-2:])
    space = str(space_file(tmp_path, recorded["label_nc"], unknown=unknown))
    done = convert(file, form, tmp_path / "out", label_space=space, size=size, **wishes)
    assert (done.config.method, done.config.data.instance_edges) == (form, True)
    assert f"with instance edges, {size[0]}x{size[1]}" in str(done)
    synthesizer = Synthesizer.load(tmp_path / "out", device="cpu")
    ids, instances, recorded_image = (held[f"in.{part}"] for part in ("label", "instance", "image"))
    style = to_image(recorded_image) if encoder else None
    batch = Batch(ids.long(), edges=instance_edges(instances.long()), instances=instances.long(), style=style)
    noise = held.get("in.eps.eval", torch.zeros(2, 0)).float()
    image, expected = synthesizer.generate(batch, noise), held["out.eval.fake"]
    step = size[0] // expected.shape[-2]
    assert (image[..., ::step, ::step] - expected).abs().max() <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("name", "form", "classes"), [("spade_vae_a", "spade", 8), ("ccfpse_a", "cc-fpse", 6)])
def test_without_the_encoder_noise_alone_takes_its_place(
    golden_root: Path, tmp_path: Path, name: str, form: str, classes: int
) -> None:
    held = load_file(golden_root / "peers" / f"{name}.safetensors")
    file, space = write_networks(tmp_path, held, "GE"), str(space_file(tmp_path, classes, unknown=True))
    found = []
    for kind in ("style", "noise"):
        done = convert(file, form, tmp_path / kind, label_space=space, size=(64, 64))
        assert done.config.generator.input == kind
        synthesizer = Synthesizer.load(tmp_path / kind, device="cpu")
        batch = Batch(held["in.label"].long(), edges=instance_edges(held["in.instance"].long()))
        found.append(synthesizer.generate(batch, torch.linspace(-1, 1, 512).view(2, 256)))
        (tmp_path / "latest_net_E.pth").unlink(missing_ok=True)
    assert torch.equal(*found)


def test_file_of_another_network_next_to_the_generator_is_refused(golden_root: Path, tmp_path: Path) -> None:
    held = load_file(golden_root / "peers" / "spade_vae_a.safetensors")
    file = write_networks(tmp_path, held, "GD")
    (tmp_path / "latest_net_D.pth").rename(tmp_path / "latest_net_E.pth")
    with pytest.raises(CheckpointError, match=r"latest_net_E.pth holds no image encoder of SPADE"):
        convert(file, "spade", tmp_path / "out", label_space=str(space_file(tmp_path, 8, unknown=True)), size=(64, 64))


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
    write_networks(tmp_path, held, network)
    with pytest.raises(CheckpointError, match=words):
        convert(tmp_path / f"latest_net_{network}.pth", form, tmp_path / "out")
