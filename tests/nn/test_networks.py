"""Common checks of all networks: forward, training, saving, export, compilation and widths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lab2pix.nn.attention import LSCA
from lab2pix.nn.blocks import GenResBlk, MiniInception
from lab2pix.nn.discriminators import HierarchicalDiscriminator, MultiScaleDiscriminator, PatchDiscriminator
from lab2pix.nn.encoders import GlobalEncoder, NoiseEncoder, SketchEncoder
from lab2pix.nn.generators import GeneratorSettings, Lab2PixV1Generator, Lab2PixV2Generator
from lab2pix.nn.init import xavier_init
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
    """A network at a given width, and inputs of 64x64 (or 128x128) for it.

    Tracing takes seconds, so those that another case has all the operations of are not traced.
    """

    build: Callable[[int], nn.Module]
    inputs: Callable[[int], tuple[Any, ...]]
    traced: bool = True


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
    "v1-six-upsamplings": Case(
        lambda w: unpaired(w, num_upsamples=6, start_size=(1, 1)), lambda w: (onehot(), torch.randn(2, 8)), traced=False
    ),
    "v1-seven-upsamplings": Case(
        lambda w: unpaired(w, num_upsamples=7, start_size=(1, 1)),
        lambda w: (onehot(128), torch.randn(2, 8)),
        traced=False,
    ),
    "v1-sketch-label-start": Case(
        lambda w: unpaired(w, encoder="sketch", input="label"), lambda w: (sketch(),), traced=False
    ),
    "v1-one-image": Case(
        lambda w: unpaired(w, progressive=False), lambda w: (onehot(), torch.randn(2, 8)), traced=False
    ),
    "v1-plain-scales": Case(
        lambda w: unpaired(w, coattention=False), lambda w: (onehot(), torch.randn(2, 8)), traced=False
    ),
    "v1-spade": Case(
        lambda w: unpaired(w, modulation="spade", progressive=False, coattention=False),
        lambda w: (onehot(), torch.randn(2, 8)),
        traced=False,
    ),
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


def assert_same(ours: Any, theirs: Any, tolerance: float = 0.0) -> None:
    for one, other in zip(tensors(ours), tensors(theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", CASES)
class TestEveryNetwork:
    @pytest.mark.slow
    @pytest.mark.parametrize("width", [2, 3])
    def test_network_learns_at_any_width(self, name: str, width: int) -> None:
        case = CASES[name]
        network = case.build(width)
        outputs = tensors(network(*case.inputs(width)))
        assert all(output.isfinite().all() for output in outputs)
        torch.stack([(output * torch.randn_like(output)).sum() for output in outputs]).sum().backward()
        for parameter_name, parameter in network.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name

    @pytest.mark.slow
    def test_network_is_equal_after_saving_and_loading(self, name: str, tmp_path: Path) -> None:
        case = CASES[name]
        network, inputs = case.build(2), case.inputs(2)
        network(*inputs)
        save_file(network.state_dict(), tmp_path / "weights.safetensors")
        other = case.build(2)
        other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
        assert_same(other.eval()(*inputs), network.eval()(*inputs))

    @pytest.mark.slow
    def test_network_initializes_with_right_spectral_norms(self, name: str) -> None:
        network = CASES[name].build(2)
        xavier_init(network)
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d) and nn.utils.parametrize.is_parametrized(layer):
                layer.eval()
                norm = torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item()
                assert norm == pytest.approx(1, abs=0.25)  # power iterations converge slowly


@pytest.mark.xslow
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.traced])
class TestTracing:
    @torch.no_grad()
    def test_network_exports(self, name: str) -> None:
        case = CASES[name]
        network, inputs = case.build(2).eval(), case.inputs(2)
        program = torch.export.export(network, inputs)
        assert_same(program.module()(*inputs), network(*inputs), 1e-5)

    def test_network_compiles(self, name: str) -> None:
        case = CASES[name]
        network, inputs = case.build(2).eval(), case.inputs(2)
        compiled = torch.compile(network, backend="eager")
        assert_same(compiled(*inputs), network(*inputs), 1e-5)
