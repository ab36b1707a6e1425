"""Parity of OASIS, DP-GAN and USIS: changed recordings, and other options in files made here."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lab2pix.errors import CheckpointError
from lab2pix.interop.keymap import rename
from lab2pix.interop.part_vectors import PartResults, check_parts
from lab2pix.interop.vectors import Vectors, read_vectors
from lab2pix.methods.dp_gan import DPGAN
from lab2pix.methods.oasis import OASIS
from lab2pix.methods.usis import USIS
from lab2pix.nn.dp_gan import DPGANDiscriminator, DPGANGenerator
from lab2pix.nn.oasis import OASISDiscriminator, OASISGenerator
from lab2pix.nn.usis import WaveletDiscriminator
from lab2pix.testing.parity import check_file
from tests.helpers.vectors import write_vectors


@pytest.fixture(scope="module")
def dp_gan(golden_root: Path) -> tuple[Vectors, PartResults]:
    """The authors' recording of DP-GAN, and what this package computes for it."""
    vectors = read_vectors(golden_root / "peers" / "dpgan_a.safetensors")
    return vectors, DPGAN.vector_results(vectors)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "output"),
    [
        (
            lambda _, values: values["feature_checksums"]["out.eval.D_fake"][1].reverse(),
            "feature_checksums.out.eval.D_fake.1",
        ),
        (lambda _, values: values["feature_checksums"]["out.eval.D_real"].pop(), "feature_checksums.out.eval.D_real"),
        (lambda tensors, _: tensors["out.G_half.D_real.score1"].add_(3e-4), "out.G_half.D_real.score1"),
        (
            lambda _, values: values["after_step"]["EMA"].update({"seg_pyrmid.0.1.num_batches_tracked": [21, 21]}),
            "after_step.EMA.seg_pyrmid.0.1.num_batches_tracked",
        ),
    ],
)
def test_parity_fails_by_name(
    dp_gan: tuple[Vectors, PartResults], change: Callable[[dict[str, Tensor], dict[str, Any]], None], output: str
) -> None:
    vectors = deepcopy(dp_gan[0])
    change(vectors.tensors, vectors.values)
    assert [row.output for row in check_parts(vectors, dp_gan[1]) if not row.ok] == [output]


@pytest.mark.slow
def test_mask_of_labelmix_comes_from_the_recording(golden_root: Path) -> None:
    vectors = read_vectors(golden_root / "peers" / "oasis_a.safetensors")
    vectors.tensors["in.labelmix_mask"].fill_(1)
    failed = {row.output for row in OASIS.check_vectors(vectors) if not row.ok}
    assert {"out.D_half.D_mixed", "loss.D_half.labelmix"} <= failed
    assert not {name for name in failed if "G_half" in name or "D_real" in name or "D_fake" in name}
    vectors.tensors["in.label"].add_(1)
    with pytest.raises(CheckpointError, match=r"in\.label holds 8, but config\.semantic_nc is 8"):
        OASIS.check_vectors(vectors)


# --- files made here: other depths, widths and options ------------------------------------------------------------


def made(folder: Path, system: str, method: Any, networks: dict[str, tuple[str, nn.Module]], config: Any) -> Path:
    """Record images and logits in eval mode of networks without noise, for images of 32x16."""
    torch.manual_seed(1)
    label, image = torch.randint(5, (2, 1, 32, 16), dtype=torch.uint8), torch.rand(2, 3, 32, 16) * 2 - 1
    condition = nn.functional.one_hot(label[:, 0].long(), 5).permute(0, 3, 1, 2).float().contiguous()
    tensors: dict[str, Tensor] = {"in.label": label, "in.image": image}
    for name, (prefix, network) in networks.items():
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.3)
        network.eval()
        tensors |= {f"{prefix}.{key}": weight for key, weight in rename(network, method.weight_rules[name]).items()}
    with torch.no_grad():
        tensors["out.eval.fake"] = fake = networks["generator"][1](condition)
        for prefix, network in list(networks.values())[1:]:
            for kind, seen in (("fake", fake), ("real", image)):
                output = network(seen)
                tensors[f"out.eval.{prefix}_{kind}"] = output if isinstance(output, Tensor) else output[0]
    shared = {"semantic_nc": 5, "contain_dontcare_label": False, "no_3dnoise": True, "EMA_decay": 0.9}
    shared |= {"lr_g": 1e-4, "lr_d": 1e-4, "beta1": 0.0, "beta2": 0.9}
    values = {
        "system": system,
        "config": {**shared, **config},
        "tolerance": {"outputs_abs": dict.fromkeys([name for name in tensors if name.startswith("out.")], 1e-5)},
        "parameters_with_zero_gradient": {},
    }
    return write_vectors(folder, tensors, values)


def u_net(cls: Any = OASISDiscriminator, **widths: int) -> nn.Module:
    return cls(5, widths=(2, 3, 3, 4), last_width=2, **widths)


@pytest.mark.parametrize("system", ["OASIS", "DP-GAN", "USIS"])
def test_parity_reads_depths_widths_and_options(tmp_path: Path, system: str) -> None:
    torch.manual_seed(0)
    generator: nn.Module = OASISGenerator(5, width=1, num_upsamples=3, modulation_hidden=3, noise_dim=0)
    if system == "USIS":
        judge = WaveletDiscriminator((32, 16), width=4, depth=2)
        networks = {"generator": ("G", generator), "segmenter": ("S", u_net()), "discriminator": ("Du", judge)}
        config = {"lambda_segment": 2.0, "reg_every": 4, "lr_Du": 1e-3}
        path = made(tmp_path, "USIS (generator 0)", USIS, networks, config)
    elif system == "DP-GAN":
        generator = DPGANGenerator(5, width=1, num_upsamples=2, pyramid_first=3, pyramid_width=2, noise_dim=0)
        networks = {"generator": ("G", generator), "discriminator": ("D", u_net(DPGANDiscriminator, head_width=3))}
        path = made(tmp_path, system, DPGAN, networks, {"no_labelmix": True})
    else:
        networks = {"generator": ("G", generator), "discriminator": ("D", u_net())}
        path = made(tmp_path, system, OASIS, networks, {"no_labelmix": True})
    rows = check_file(path)
    assert not [row for row in rows if not row.ok]
    assert len(rows) == (5 if system == "USIS" else 3)
