"""Common checks of all networks: training at several widths, compilation, and gradient checkpointing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lab2pix.nn.attention import LSCA
from lab2pix.nn.blocks import GenResBlk, MiniInception
from lab2pix.nn.discriminators import HierarchicalDiscriminator, MultiScaleDiscriminator, PatchDiscriminator
from lab2pix.nn.encoders import GlobalEncoder, NoiseEncoder, SketchEncoder
from lab2pix.nn.generators import GeneratorSettings, Lab2PixV1Generator, Lab2PixV2Generator
from lab2pix.nn.normalization import SPADE, DGNorm

LABELS = 3
SIZE = 64


def onehot(size: int = SIZE) -> Tensor:
    ids = torch.randint(LABELS, (2, size // 8, size // 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    return nn.functional.one_hot(ids, LABELS).permute(0, 3, 1, 2).float()


def sketch() -> Tensor:
    return 1 - 2 * (torch.rand(2, 1, SIZE, SIZE) > 0.9).float()


def seen(levels: int, channels: int, size: int = SIZE) -> list[Tensor]:
    return [torch.randn(2, channels, size >> (3 + level), size >> (3 + level)) for level in range(levels)]


@dataclass(frozen=True)
class Case:
    """A network at a given width, and inputs of 64x64 for it."""

    build: Callable[[int], nn.Module]
    inputs: Callable[[int], tuple[Any, ...]]


def settings(width: int, **options: Any) -> GeneratorSettings:
    defaults = {"start_size": (2, 2), "modulation_hidden": 4 * width, "global_width": width, "noise_dim": 8}
    return GeneratorSettings(width=width, global_max_width=4 * width, **(defaults | options))


def generator(width: int, **options: Any) -> Lab2PixV2Generator:
    return Lab2PixV2Generator(LABELS, settings(width, **options))


def unpaired(width: int, **options: Any) -> Lab2PixV1Generator:
    own = {name: options.pop(name) for name in ("encoder", "progressive", "coattention") if name in options}
    channels = 1 if own.get("encoder") == "sketch" else LABELS
    return Lab2PixV1Generator(channels, settings(width, **options), **own)


CASES = {
    "spade": Case(lambda w: SPADE(w, LABELS, hidden=4), lambda w: (torch.randn(2, w, 32, 32), onehot())),
    "dg-norm": Case(
        lambda w: DGNorm(w, LABELS, hidden=4),
        lambda w: (torch.randn(2, w, 32, 32), onehot(), torch.randn(2, 4, 32, 32)),
    ),
    "genresblk": Case(
        lambda w: GenResBlk(w, 2 * w, LABELS, hidden=4),
        lambda w: (torch.randn(2, w, SIZE, SIZE), onehot(), torch.randn(2, 4, SIZE, SIZE)),
    ),
    "genresblk-spade-identity": Case(
        lambda w: GenResBlk(w, w, LABELS, hidden=4, modulation="spade", spectral_norm=False),
        lambda w: (torch.randn(2, w, SIZE, SIZE), onehot()),
    ),
    "mini-inception": Case(lambda w: MiniInception(w, 2 * w), lambda w: (torch.randn(2, w, SIZE, SIZE),)),
    "global-encoder": Case(
        lambda w: GlobalEncoder(LABELS, num_upsamples=5, width=w, max_width=4 * w, out_channels=4),
        lambda w: (onehot(),),
    ),
    "v2": Case(generator, lambda w: (onehot(), torch.randn(2, 8))),
    "v2-label-start": Case(lambda w: generator(w, input="label"), lambda w: (onehot(),)),
    "v2-spade": Case(lambda w: generator(w, modulation="spade"), lambda w: (onehot(), torch.randn(2, 8))),
    "noise-encoder": Case(lambda w: NoiseEncoder(8, w, (2, 3)), lambda w: (torch.randn(2, 8),)),
    "sketch-encoder": Case(lambda w: SketchEncoder(1, w), lambda w: (sketch(),)),
    "lsca": Case(
        lambda w: LSCA(2 * w, w, LABELS),
        lambda w: (torch.randn(2, 2 * w, SIZE // 2, SIZE // 2), torch.randn(2, w, SIZE, SIZE), onehot()),
    ),
    "v1": Case(unpaired, lambda w: (onehot(), torch.randn(2, 8))),
    "v1-sketch": Case(lambda w: unpaired(w, encoder="sketch"), lambda w: (sketch(), torch.randn(2, 8))),
    "hierarchical": Case(
        lambda w: HierarchicalDiscriminator(6, (5, 5, 5), levels=3, width=w, max_width=4 * w),
        lambda w: (torch.randn(2, 6, SIZE, SIZE), seen(3, 5)),
    ),
    "patch": Case(
        lambda w: PatchDiscriminator(6, width=w, max_width=4 * w), lambda w: (torch.randn(2, 6, SIZE, SIZE), [])
    ),
    "multi-scale": Case(
        lambda w: MultiScaleDiscriminator(
            [
                HierarchicalDiscriminator(6, (5,) * levels, levels=levels, width=w, max_width=4 * w)
                for levels in (3, 2, 1)
            ]
        ),
        lambda w: (
            [torch.randn(2, 6, SIZE >> s, SIZE >> s) for s in range(3)],
            [seen(3 - s, 5, SIZE >> s) for s in range(3)],
        ),
    ),
}


def tensors(output: Any) -> list[Tensor]:
    leaves = pytree.tree_leaves(output)
    assert leaves and all(isinstance(leaf, Tensor) for leaf in leaves)
    return leaves


@pytest.mark.slow
@pytest.mark.parametrize("width", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_network_learns_at_any_width(name: str, width: int) -> None:
    case = CASES[name]
    network = case.build(width)
    outputs = tensors(network(*case.inputs(width)))
    assert all(output.isfinite().all() for output in outputs)
    torch.stack([(output * torch.randn_like(output)).sum() for output in outputs]).sum().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


@pytest.mark.xslow
@pytest.mark.parametrize("name", CASES)
def test_network_compiles(name: str) -> None:
    case = CASES[name]
    network, inputs = case.build(2).eval(), case.inputs(2)
    compiled = torch.compile(network, backend="eager")
    torch.testing.assert_close(tensors(compiled(*inputs)), tensors(network(*inputs)), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v1", "v1-sketch", "v2", "v2-label-start", "v2-spade"])
def test_checkpointing_changes_no_output_gradient_or_buffer(name: str) -> None:
    plain = CASES[name].build(2)
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    runs: list[int] = []
    saving.blocks[-1].conv_1.register_forward_hook(lambda *_: runs.append(1))
    for _ in range(2):  # the second step starts from the buffers that the first one left
        inputs, images = CASES[name].inputs(2), []
        for generator in (plain, saving):
            generator.zero_grad()
            images.append(tensors(generator(*inputs)))
            sums = [(image * torch.linspace(-1, 1, image.shape[-1])).sum() for image in images[-1]]
            torch.stack(sums).sum().backward()
        assert all(torch.equal(one, other) for one, other in zip(*images, strict=True))
        for (key, ours), theirs in zip(plain.named_parameters(), saving.parameters(), strict=True):
            assert torch.equal(ours.grad, theirs.grad), key
        for (key, ours), theirs in zip(plain.named_buffers(), saving.buffers(), strict=True):
            assert torch.equal(ours, theirs), key
    assert len(runs) == 4  # forward, and again in the backward pass


def test_checkpointing_saves_fewer_activations() -> None:
    kept = []
    for checkpointing in (False, True):
        network, inputs, sizes = CASES["v2"].build(8), CASES["v2"].inputs(8), []
        network.set_grad_checkpointing(checkpointing)
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: s.append(x.numel()) or x, lambda x: x):
            network(*inputs)
        kept.append(sum(sizes))
    assert kept[1] < 0.5 * kept[0]
