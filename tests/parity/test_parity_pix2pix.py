"""Parity of Pix2Pix and CycleGAN: vector files with a reference step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.interop.keymap import rename
from lab2pix.methods.image_translation import released_rules
from lab2pix.nn.patchgan import PatchGAN, PixelGAN
from lab2pix.nn.resnet import ResNetGenerator
from lab2pix.nn.unet import UNetGenerator
from lab2pix.testing.parity import check_file
from tests.helpers.vectors import lively, write_vectors

TOLERANCE = {
    "out": 1e-4, "loss_relative": 1e-4, "grad_norm_relative": 1e-3, "grad_norm_by_tensor_relative": 1e-2,
    "out.after_max": 0.02, "out.after_mean": 1e-3, "relative_floor": 1e-3,
}  # fmt: skip
ADAM = {"lr": 2e-4, "beta1": 0.5, "beta2": 0.999}


def mean_square(logits: Tensor, target: float) -> Tensor:
    return ((logits - target) ** 2).mean()


def cross_entropy(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def wasserstein(logits: Tensor, target: float) -> Tensor:
    return logits.mean() * (1 - 2 * target)


GAN: dict[str, Callable[[Tensor, float], Tensor]] = {
    "lsgan": mean_square, "vanilla": cross_entropy, "wgangp": wasserstein,
}  # fmt: skip


def norms(networks: dict[str, nn.Module]) -> dict[str, float]:
    return {
        prefix: torch.cat([parameter.grad.flatten() for parameter in network.parameters()]).norm().item()  # type: ignore[union-attr]
        for prefix, network in networks.items()
    }


def stored(networks: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Return all weights under the names of the authors' code, after making them lively."""
    tensors = {}
    for prefix, network in networks.items():
        for layer in network.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0
        lively(network)
        tensors |= {f"{prefix}.{name}": weight for name, weight in rename(network, released_rules(network)).items()}
    return tensors


def after(networks: dict[str, nn.Module]) -> dict[str, Any]:
    """Return sums of the weights after the step; biases before instance norms, which have no gradient, are unstable."""
    sums = {}
    for prefix, network in networks.items():
        for name, weight in rename(network, released_rules(network)).items():
            double = weight.double()
            sums[f"{prefix}.{name}"] = [double.sum().item(), double.abs().sum().item()]
    return {
        "tolerance": TOLERANCE,
        "after.sums": sums,
        "after.tolerance": dict.fromkeys(sums, 0.005),
        "after.unstable": [name for name in sums if name.endswith("bias")],
    }


def label_map(classes: int, side: int) -> tuple[Tensor, Tensor]:
    ids = torch.randint(classes, (2, side, side), dtype=torch.uint8)
    return ids, F.one_hot(ids.long(), classes).permute(0, 3, 1, 2).float().contiguous()


def made_pix2pix(folder: Path, generator: nn.Module, discriminator: nn.Module, mode: str) -> Path:
    """Record a step with a label map of 4 classes."""
    networks, gan = {"G": generator, "D": discriminator}, GAN[mode]
    tensors = stored(networks)
    ids, a = label_map(4, 32)
    b = torch.rand(2, 3, 32, 32) * 2 - 1
    tensors |= {"in.ids": ids, "in.real_B": b}
    adam = {name: torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999)) for name, network in networks.items()}
    values: dict[str, Any] = {
        "system": "Pix2Pix",
        "config": {"gan_mode": mode, "input_nc": 4, "output_nc": 3, "lambda_L1": 10.0, **ADAM},
    }
    image = generator(a)
    fake, real = discriminator(torch.cat([a, image.detach()], 1)), discriminator(torch.cat([a, b], 1))
    ((gan(fake, 0) + gan(real, 1)) / 2).backward()
    tensors |= {"out.fake_B": image.clone(), "out.D_fake": fake.clone(), "out.D_real": real[..., ::2, ::2].clone()}
    values["loss.step"] = {"D_fake": gan(fake, 0).item(), "D_real": gan(real, 1).item()}
    values["grad_norm.step"] = norms({"D": discriminator})
    adam["D"].step()
    adversarial = gan(discriminator(torch.cat([a, image], 1)), 1)
    l1 = 10 * F.l1_loss(image, b)
    (adversarial + l1).backward()
    values["loss.step"] |= {"G_GAN": adversarial.item(), "G_L1": l1.item()}
    values["grad_norm.step"] |= norms({"G": generator})
    adam["G"].step()
    return write_vectors(folder, tensors, values | after(networks))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("generator", "discriminator", "mode"),
    [
        (lambda: UNetGenerator(4, 3, width=2, levels=3, norm="none"), lambda: PixelGAN(7, width=3), "lsgan"),
        (
            lambda: UNetGenerator(4, 3, width=2, levels=5, norm="instance"),
            lambda: PatchGAN(7, width=2, layers=2, norm="none"),
            "vanilla",
        ),
        (
            lambda: ResNetGenerator(4, 3, width=2, blocks=2, norm="batch", dropout=0.5),
            lambda: PatchGAN(7, width=2, layers=1, norm="instance"),
            "wgangp",
        ),
    ],
)
def test_parity_of_pix2pix_reads_other_networks(
    tmp_path: Path, generator: Callable[[], nn.Module], discriminator: Callable[[], nn.Module], mode: str
) -> None:
    torch.manual_seed(0)
    rows = check_file(made_pix2pix(tmp_path, generator(), discriminator(), mode))
    assert not [row for row in rows if not row.ok]
    assert len(rows) > 20


@pytest.mark.slow
def test_parity_of_cyclegan_reads_label_maps_batch_norm_and_dropout(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"width": 2, "blocks": 1, "norm": "batch"}
    networks = {
        "G_A": ResNetGenerator(4, 3, dropout=0.5, **shape),
        "G_B": ResNetGenerator(3, 4, dropout=0.5, **shape),
        "D_A": PatchGAN(3, width=2, layers=2),
        "D_B": PatchGAN(4, width=2, layers=2),
    }
    tensors = stored(networks)
    ids, a = label_map(4, 32)
    b = torch.rand(2, 3, 32, 32) * 2 - 1
    tensors |= {"in.ids": ids, "in.real_B": b}
    adam = {
        kind: torch.optim.Adam(
            [*networks[f"{kind}_A"].parameters(), *networks[f"{kind}_B"].parameters()], 2e-4, (0.5, 0.999)
        )
        for kind in "GD"
    }
    fake_b = networks["G_A"](a)
    rec_a = networks["G_B"](fake_b)
    fake_a = networks["G_B"](b)
    rec_b = networks["G_A"](fake_a)
    terms = {
        "G_A": mean_square(networks["D_A"](fake_b), 1), "G_B": mean_square(networks["D_B"](fake_a), 1),
        "cycle_A": 5 * F.l1_loss(rec_a, a), "cycle_B": 7 * F.l1_loss(rec_b, b),
    }  # fmt: skip
    sum(terms.values()).backward()  # type: ignore[union-attr]
    adam["G"].step()
    adam["D"].zero_grad()
    for name, real, fake in (("D_A", b, fake_b), ("D_B", a, fake_a)):
        of_real, of_fake = networks[name](real), networks[name](fake.detach())
        terms[name] = (mean_square(of_real, 1) + mean_square(of_fake, 0)) / 2
        terms[name].backward()
        tensors |= {f"out.{name}_real": of_real, f"out.{name}_fake": of_fake}
    values = {
        "system": "CycleGAN",
        "config": {"gan_mode": "lsgan", "input_nc": 4, "lambda_A": 5.0, "lambda_B": 7.0, "lambda_identity": 0, **ADAM},
        "loss.initial": {name: term.item() for name, term in terms.items()} | {"idt_A": 0.0, "idt_B": 0.0},
        "grad_norm.initial": norms(networks),
    }
    adam["D"].step()
    tensors |= {"out.fake_A": fake_a, "out.rec_A": rec_a}
    rows = check_file(write_vectors(tmp_path, tensors, values | after(networks)))
    assert not [row for row in rows if not row.ok]
    assert len(rows) > 20
