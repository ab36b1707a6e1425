"""Parity of CUT and DCLGAN: the authors' recordings, FastCUT and other options in files made here."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from lab2pix.interop.part_vectors import PartResults, check_parts
from lab2pix.interop.vectors import Vectors, read_vectors
from lab2pix.methods.cut import CUT
from lab2pix.nn.patch_projection import PatchProjection
from lab2pix.nn.patchgan import PatchGAN
from lab2pix.nn.resnet import ResNetGenerator
from lab2pix.testing.parity import check_file

GROUPS = {"out", "loss", "grad_norm", "grad_norm_per_parameter", "after_step"}


@pytest.mark.slow
@pytest.mark.parametrize("fast", [False, pytest.param(True, marks=pytest.mark.xslow)])
def test_parity_of_the_authors_dclgan(golden_root: Path, fast: bool) -> None:
    rows = check_file(golden_root / "peers" / "dclgan_a.safetensors", fast=fast)
    assert not [row for row in rows if not row.ok]
    assert {row.output.split(".")[0] for row in rows} == GROUPS


@pytest.fixture(scope="module")
def cut(golden_root: Path) -> tuple[Vectors, PartResults]:
    """The authors' CUT recording, and what this package computes for it."""
    vectors = read_vectors(golden_root / "peers" / "cut_a.safetensors")
    return vectors, CUT.vector_results(vectors)


def test_parity_of_the_authors_cut(cut: tuple[Vectors, PartResults]) -> None:
    rows = list(check_parts(*cut))
    assert not [row for row in rows if not row.ok]
    assert {row.output.split(".")[0] for row in rows} == GROUPS
    assert len(rows) == 176


# --- files made here ----------------------------------------------------------------------------------------------


def lively(network: nn.Module) -> nn.Module:
    """Draw all weights anew, so that every path matters."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=(parameter[0].numel() or 1) ** -0.5 if parameter.ndim > 1 else 0.3)
    return network


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
    return write(folder, tensors, values)


def write(folder: Path, tensors: dict[str, Tensor], values: dict[str, Any]) -> Path:
    path = folder / "made.safetensors"
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    path.with_suffix(".json").write_text(json.dumps(values))
    return path


def test_parity_of_fastcut_reads_other_options(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = check_file(made_fastcut(tmp_path))
    assert not [row for row in rows if not row.ok]
    assert len(rows) > 60


# --- what must fail -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "output", "note"),
    [
        (lambda tensors, _: tensors["out.idt_B"].add_(3e-4), "out.idt_B", ""),
        (lambda tensors, _: tensors["out.F.NCE.q.3"].add_(3e-4), "out.F.NCE.q.3", ""),
        (lambda _, values: values["loss"]["D_half"].update(D=0.77), "loss.D_half.D", ""),
        (lambda _, values: values["loss"]["G_half"].update(H=1.0), "loss.G_half.H", "no such value"),
        (
            lambda _, values: values["loss"]["NCE_per_layer_times_lambda"]["NCE"].reverse(),
            "loss.NCE_per_layer_times_lambda.NCE",
            "",
        ),
        (lambda _, values: values["grad_norm"]["G_half"].update(F=2.1), "grad_norm.G_half.F", ""),
        (
            lambda _, values: values["grad_norm_per_parameter"]["D_half"]["D"].update({"model.0.bias": None}),
            "grad_norm_per_parameter.D_half.D.model.0.bias",
            "",
        ),
        (lambda _, values: values["after_step"]["F"]["mlp_0.0.bias"].reverse(), "after_step.F.mlp_0.0.bias", ""),
        (lambda _, values: values["after_step"].update(E={"w": [0, 0]}), "after_step.E.w", "no such weight"),
        (lambda tensors, _: tensors.update({"out.new": torch.zeros(1)}), "out.new", "no such output"),
        (lambda tensors, _: tensors.update({"E.weight": torch.zeros(1)}), "E.weight", "no network"),
        (lambda _, values: values.update(surprise=1), "surprise", "no such value"),
    ],
)
def test_parity_fails_by_name(
    cut: tuple[Vectors, PartResults],
    change: Callable[[dict[str, Tensor], dict[str, Any]], None],
    output: str,
    note: str,
) -> None:
    vectors, results = cut
    vectors = deepcopy(vectors)
    change(vectors.tensors, vectors.values)
    failed = [row for row in check_parts(vectors, results) if not row.ok]
    assert [row.output for row in failed] == [output]
    assert note in failed[0].note


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda _, values: values.update(system="CUTE"), "not the networks of any method"),
        (lambda _, values: values["config"].update(gan_mode="nonsense"), "config.gan_mode is 'nonsense'"),
        (lambda tensors, _: tensors.pop("F.mlp_4.2.bias"), "do not fit PatchProjection"),
        (lambda tensors, _: tensors.pop("in.B"), "in.B"),
    ],
)
def test_parity_fails_as_a_whole(
    cut: tuple[Vectors, PartResults],
    tmp_path: Path,
    change: Callable[[dict[str, Tensor], dict[str, Any]], None],
    note: str,
) -> None:
    vectors = deepcopy(cut[0])
    change(vectors.tensors, vectors.values)
    failed = check_file(write(tmp_path, vectors.tensors, vectors.values))
    assert [(row.output, row.ok) for row in failed] == [("made.safetensors", False)]
    assert note in failed[0].note
