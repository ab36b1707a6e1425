"""Parity of CUT: a mirrored step of FastCUT with other options, recorded here."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.nn.patch_projection import PatchProjection
from lab2pix.nn.patchgan import PatchGAN
from lab2pix.nn.resnet import ResNetGenerator
from lab2pix.testing.parity import check_file
from tests.helpers.vectors import lively, write_vectors


def nce(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Cross entropy over all patches of the batch, with -10 in place of the own one."""
    similar = queries @ keys.t()
    others = similar - torch.diag(similar.diag()) - 10 * torch.eye(len(similar))
    logits = torch.cat([similar.diag()[:, None], others], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))


def norms(network: nn.Module) -> dict[str, float]:
    return {name: float(weight.grad.norm()) for name, weight in network.named_parameters()}  # type: ignore[union-attr]


def total(gradients: dict[str, float]) -> float:
    return float(torch.tensor(list(gradients.values())).norm())


def made_fastcut(folder: Path) -> Path:
    """Record a mirrored step of FastCUT with other layers, negatives of the batch, and cross entropy."""
    generator = lively(ResNetGenerator(3, width=3, blocks=2, norm="none", antialias_down=True))
    judge, layers = lively(PatchGAN(3, width=2, layers=2, norm="none")), [0, 5, 9]
    with torch.no_grad():
        widths = [feature.shape[1] for feature in generator.features(torch.zeros(1, 3, 16, 16), layers)]
    head = lively(PatchProjection(widths, 5))
    networks = {"G": generator, "F": head, "D": judge}
    tensors = {f"{key}.{name}": w.clone() for key, net in networks.items() for name, w in net.state_dict().items()}
    pixels, b = torch.randint(256, (2, 3, 32, 24), dtype=torch.uint8), torch.rand(2, 3, 32, 24) * 2 - 1
    a = pixels / 127.5 - 1
    with torch.no_grad():
        sizes = [feature.shape[2] * feature.shape[3] for feature in generator.features(a, layers)]
    places = [torch.randperm(size)[:7] for size in sizes]
    tensors |= {"in.A": pixels, "in.B": b} | {f"in.patch_ids.NCE.{i}": p.int() for i, p in enumerate(places)}
    adam = {key: torch.optim.Adam(net.parameters(), 1e-3, (0.4, 0.9)) for key, net in networks.items()}

    fake = generator(a.flip(3))
    of_fake, of_real = judge(fake.detach()), judge(b)
    d_fake, d_real = F.softplus(of_fake).mean(), F.softplus(-of_real).mean()
    ((d_fake + d_real) / 2).backward()
    d_norms = norms(judge)
    adam["D"].step()
    gan = 2 * F.softplus(-judge(fake)).mean()
    queries = head([feature.flip(3) for feature in generator.features(fake, layers)], places)
    keys = [key.detach() for key in head(generator.features(a, layers), places)]
    per_layer = [10 * nce(query, key, 0.1) for query, key in zip(queries, keys, strict=True)]
    contrast = torch.stack(per_layer).mean()
    (gan + contrast).backward()
    g_norms, f_norms = norms(generator), norms(head)
    adam["G"].step()
    adam["F"].step()
    tensors |= {"out.fake_B": fake, "out.D_half.D_real": of_real, "out.F.NCE.q.2": queries[2], "out.F.NCE.k.1": keys[1]}
    values = {
        "system": "FastCUT",
        "config": {
            "gan_mode": "vanilla", "lambda_GAN": 2.0, "lambda_NCE": 10.0, "nce_idt": False, "flip_equivariance": True,
            "flipped_in_this_step": True, "nce_T": 0.1, "nce_includes_all_negatives_from_minibatch": True,
            "num_patches": 7, "nce_layers": "0,5,9", "lr": 1e-3, "beta1": 0.4, "beta2": 0.9,
        },
        "loss": {
            "D_half": {"D_fake": d_fake.item(), "D_real": d_real.item(), "D": (d_fake + d_real).item() / 2},
            "G_half": {"G_GAN": gan.item(), "NCE": contrast.item(), "G": (gan + contrast).item()},
            "NCE_per_layer_times_lambda": {"NCE": [value.item() for value in per_layer]},
        },
        "grad_norm": {"D_half": {"D": total(d_norms)}, "G_half": {"G": total(g_norms), "F": total(f_norms)}},
        "grad_norm_per_parameter": {"D_half": {"D": d_norms}, "G_half": {"G": g_norms, "F": f_norms}},
        "after_step": {
            key: {n: [w.double().sum().item(), w.double().abs().sum().item()] for n, w in net.state_dict().items()}
            for key, net in networks.items()
        },
        "tolerance": {"outputs_abs": dict.fromkeys([name for name in tensors if name.startswith("out.")], 1e-4)},
        "after_step_tolerance": {"G": dict.fromkeys(generator.state_dict(), 0.01)},
        "parameters_with_zero_gradient": {},
    }  # fmt: skip
    return write_vectors(folder, tensors, values)


def test_parity_of_fastcut_reads_other_options(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = check_file(made_fastcut(tmp_path))
    assert not [row for row in rows if not row.ok]
    assert len(rows) > 60
