"""Parity of MUNIT: a vector file with a reference step and other options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.nn.munit import MUNITDiscriminator, MUNITGenerator, MUNITSettings
from lab2pix.testing.parity import check_file
from tests.helpers.vectors import lively, write_vectors

WIDTH, CLASSES = 3, 5


def cross_entropy(logits: list[Tensor], target: float) -> Tensor:
    return sum(F.binary_cross_entropy(one.sigmoid(), torch.full_like(one, target)) for one in logits)  # type: ignore[return-value]


def reference_step(
    networks: dict[str, Any], adam: dict[str, Any], a: Tensor, b: Tensor, codes: dict[str, Tensor]
) -> Any:
    """Make a step of MUNIT with a cycle and cross entropy, written down from the paper's equations."""
    gen_a, gen_b, dis_a, dis_b = networks.values()
    weights = {"gan": 2.0, "x": 7.0, "s": 0.5, "c": 3.0, "cyc": 4.0}
    with torch.no_grad():
        x_ba = gen_a.decode(gen_b.enc_content(b), codes["s_a_dis"])
        x_ab = gen_b.decode(gen_a.enc_content(a), codes["s_b_dis"])
    losses: dict[str, Any] = {
        f"dis_{name}": cross_entropy(judge(fake), 0) + cross_entropy(judge(real), 1)
        for name, judge, fake, real in (("a", dis_a, x_ba, a), ("b", dis_b, x_ab, b))
    }
    losses["dis_total"] = weights["gan"] * (losses["dis_a"] + losses["dis_b"])
    losses["dis_total"].backward()
    norms = {name: gradient_norm(networks[name]) for name in ("dis_a", "dis_b")}
    adam["dis"].step()
    c_a, c_b, own_a, own_b = gen_a.enc_content(a), gen_b.enc_content(b), gen_a.enc_style(a), gen_b.enc_style(b)
    s_a, s_b = codes["s_a_gen"], codes["s_b_gen"]
    x_ba, x_ab = gen_a.decode(c_b, s_a), gen_b.decode(c_a, s_b)
    of = {
        "gen_recon_x_a": F.l1_loss(gen_a.decode(c_a, own_a), a),
        "gen_recon_x_b": F.l1_loss(gen_b.decode(c_b, own_b), b),
        "gen_recon_s_a": F.l1_loss(gen_a.enc_style(x_ba), s_a),
        "gen_recon_s_b": F.l1_loss(gen_b.enc_style(x_ab), s_b),
        "gen_recon_c_a": F.l1_loss(gen_b.enc_content(x_ab), c_a),
        "gen_recon_c_b": F.l1_loss(gen_a.enc_content(x_ba), c_b),
        "gen_cycrecon_x_a": F.l1_loss(gen_a.decode(gen_b.enc_content(x_ab), own_a), a),
        "gen_cycrecon_x_b": F.l1_loss(gen_b.decode(gen_a.enc_content(x_ba), own_b), b),
        "gen_adv_a": cross_entropy(dis_a(x_ba), 1),
        "gen_adv_b": cross_entropy(dis_b(x_ab), 1),
    }
    keys = {"recon_x": "x", "recon_s": "s", "recon_c": "c", "cycrecon_x": "cyc", "adv": "gan"}
    losses |= of
    losses["gen_total"] = sum(weights[keys[name[4:-2]]] * value for name, value in of.items())
    losses["gen_total"].backward()
    norms |= {name: gradient_norm(networks[name]) for name in ("gen_a", "gen_b")}
    adam["gen"].step()
    return {name: value.item() for name, value in losses.items()}, norms, weights


def gradient_norm(network: nn.Module) -> float:
    return float(torch.cat([weight.grad.flatten() for weight in network.parameters()]).norm())  # type: ignore[union-attr]


def made(folder: Path) -> Path:
    """Record a step from a label map, with other widths, depths, norms, padding and losses."""
    settings = MUNITSettings(
        width=WIDTH, mlp_width=5, style_dim=3, num_downsamples=1, blocks=2, activation="leaky-relu", padding="replicate"
    )
    judge = {"width": 2, "layers": 2, "scales": 2, "norm": "instance", "activation": "relu", "padding": "zero"}
    networks: dict[str, Any] = {
        "gen_a": MUNITGenerator.build(CLASSES, CLASSES, settings),
        "gen_b": MUNITGenerator.build(3, 3, settings),
        "dis_a": MUNITDiscriminator(CLASSES, **judge),  # type: ignore[arg-type]
        "dis_b": MUNITDiscriminator(3, **judge),  # type: ignore[arg-type]
    }
    tensors = {
        f"{name}.{key}": weight.clone()
        for name in networks
        for key, weight in lively(networks[name]).state_dict().items()
    }
    ids = torch.randint(CLASSES, (2, 32, 32), dtype=torch.uint8)
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    codes = {name: torch.randn(2, 3) for name in ("s_a_dis", "s_b_dis", "s_a_gen", "s_b_gen")}
    tensors |= {"in.ids": ids, "in.x_b": pixels} | {f"in.{name}": code[..., None, None] for name, code in codes.items()}
    adam = {
        kind: torch.optim.Adam(
            [*networks[f"{kind}_a"].parameters(), *networks[f"{kind}_b"].parameters()],
            3e-4, (0.4, 0.99), weight_decay=1e-2,
        )
        for kind in ("dis", "gen")
    }  # fmt: skip
    a, b = F.one_hot(ids.long(), CLASSES).permute(0, 3, 1, 2).float().contiguous(), pixels / 127.5 - 1
    with torch.no_grad():
        tensors["out.x_ab"] = networks["gen_b"].decode(networks["gen_a"].enc_content(a), codes["s_b_gen"])
    losses, norms, weights = reference_step(networks, adam, a, b, codes)
    sums = {
        f"{name}.{key}": [float(weight.double().sum()), float(weight.double().abs().sum())]
        for name, network in networks.items()
        for key, weight in network.state_dict().items()
    }
    values = {
        "system": "munit",
        "config": {
            "input_dim_a": CLASSES, "lr": 3e-4, "beta1": 0.4, "beta2": 0.99, "weight_decay": 1e-2,
            "gan_w": weights["gan"], "recon_x_w": weights["x"], "recon_s_w": weights["s"],
            "recon_c_w": weights["c"], "recon_x_cyc_w": weights["cyc"], "vgg_w": 0,
            "gen": {"dim": WIDTH, "mlp_dim": 5, "style_dim": 3, "n_downsample": 1, "n_res": 2, "activ": "lrelu",
                    "pad_type": "replicate"},
            "dis": {"dim": 2, "n_layer": 2, "num_scales": 2, "norm": "in", "activ": "relu", "pad_type": "zero",
                    "gan_type": "nsgan"},
        },
        "tolerance": {"out": 1e-4, "loss_relative": 1e-4, "grad_norm_relative": 1e-3, "relative_floor": 1e-3},
        "loss.step": losses,
        "grad_norm.step": norms,
        "after.sums": sums,
        "after.tolerance": dict.fromkeys(sums, 0.01),
        "after.unstable": [name for name in sums if name.endswith("bias")],
    }  # fmt: skip
    return write_vectors(folder, tensors, values)


@pytest.mark.slow
def test_parity_of_munit_reads_label_maps_and_other_options(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = check_file(made(tmp_path))
    assert not [row for row in rows if not row.ok]
    assert len(rows) > 60
