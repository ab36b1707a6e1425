"""Accelerated networks against plain networks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from lab2pix.nn.attention import LSCA
from lab2pix.nn.backbones import VGG16, EfficientNetLite0
from lab2pix.nn.blocks import ConvNormAct, GenResBlk, conv2d
from lab2pix.nn.discriminators import HierarchicalDiscriminator, PatchDiscriminator
from lab2pix.nn.encoders import GlobalEncoder, NoiseEncoder
from lab2pix.nn.fast import _torch, accelerate, im2col, winograd
from lab2pix.nn.fast.accelerate import FastBackbone, FastConvNormAct, FastGenResBlk
from lab2pix.nn.fast.conv import EvalConv2d, FastConv2d
from lab2pix.nn.generators import GeneratorSettings, Lab2PixV1Generator, Lab2PixV2Generator
from lab2pix.nn.normalization import SPADE, DGNorm
from lab2pix.nn.patchgan import PatchGAN
from lab2pix.nn.resnet import ResNetGenerator
from lab2pix.nn.segmentation import ICNet
from lab2pix.nn.unet import UNetGenerator

CPU = torch.device("cpu")
SETTINGS = GeneratorSettings(
    width=2, start_size=(2, 2), modulation_hidden=8, global_width=2, global_max_width=8, noise_dim=8
)


class NarrowVGG16(VGG16):
    """VGG16 with few channels."""

    perceptual_channels = (4, 8, 8, 8, 8)
    discriminator_channels = (8, 8, 8)


@dataclass(frozen=True)
class Case:
    """A network, inputs for it, and the kernels that its training step takes."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]
    half: bool = True
    """Whether bfloat16 is accurate enough for a comparison: not over many layers."""


def maps(*shape: int) -> Tensor:
    return torch.randn(2, *shape)


def labels(size: int = 64) -> Tensor:
    ids = torch.randint(3, (2, size // 8, size // 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    return nn.functional.one_hot(ids, 3).permute(0, 3, 1, 2).float()


def seen(levels: int) -> list[Tensor]:
    return [maps(5, 8 >> level, 8 >> level) for level in range(levels)]


CASES = {
    "conv": Case(lambda: nn.Conv2d(6, 8, 3, padding=1), lambda: (maps(6, 9, 10),)),
    "conv-small-map": Case(lambda: nn.Conv2d(6, 8, 3, padding=1, stride=2), lambda: (maps(6, 5, 4),)),
    "spectral-conv": Case(lambda: conv2d(6, 8, 3), lambda: (maps(6, 9, 10),)),
    "spectral-conv-small-map": Case(lambda: conv2d(6, 8, 3, stride=2, bias=False), lambda: (maps(6, 4, 4),)),
    "spectral-conv-1x1": Case(lambda: conv2d(48, 8, 1), lambda: (maps(48, 3, 3),)),
    "spade": Case(lambda: SPADE(4, 3, hidden=8), lambda: (maps(4, 16, 16), labels(32))),
    "spade-direct": Case(lambda: SPADE(4, 3, hidden=0), lambda: (maps(4, 16, 16), labels(32))),
    "dgnorm": Case(lambda: DGNorm(4, 3, hidden=8), lambda: (maps(4, 16, 16), labels(16), maps(8, 16, 16))),
    "dgnorm-shortcut": Case(lambda: DGNorm(4, 3, hidden=8), lambda: (maps(4, 16, 16), labels(16))),
    "genresblk": Case(lambda: GenResBlk(6, 4, 3, hidden=8), lambda: (maps(6, 8, 8), labels(), maps(8, 8, 8))),
    "genresblk-identity": Case(
        lambda: GenResBlk(4, 4, 3, hidden=8, modulation="spade", spectral_norm=False), lambda: (maps(4, 8, 8), labels())
    ),
    "convnormact-batch": Case(
        lambda: ConvNormAct(6, 8, 3, norm="batch", spectral_norm=False), lambda: (maps(6, 8, 8),)
    ),
    "convnormact": Case(lambda: ConvNormAct(6, 8, 3, stride=2), lambda: (maps(6, 8, 8),)),
    "lsca": Case(lambda: LSCA(6, 4, 3), lambda: (maps(6, 4, 4), maps(4, 8, 8), labels(8))),
    "global-encoder": Case(
        lambda: GlobalEncoder(3, num_upsamples=4, width=2, max_width=8, out_channels=4), lambda: (labels(),), half=False
    ),
    "global-encoder-bilinear": Case(
        lambda: GlobalEncoder(3, num_upsamples=4, width=2, max_width=8, out_channels=4, upsample="bilinear"),
        lambda: (labels(),),
        half=False,
    ),
    "noise-encoder": Case(lambda: NoiseEncoder(8, 4, (2, 3)), lambda: (maps(8), (4, 4))),
    "icnet": Case(lambda: ICNet(3, width=4, blocks=(1, 1, 1, 1)), lambda: (maps(3, 32, 32),), half=False),
    "hierarchical": Case(
        lambda: HierarchicalDiscriminator(6, (5, 5), levels=2, width=2, max_width=8),
        lambda: (maps(6, 64, 64), seen(2)),
        half=False,
    ),
    "patch": Case(lambda: PatchDiscriminator(6, width=2, max_width=8), lambda: (maps(6, 64, 64),), half=False),
    "patchgan": Case(lambda: PatchGAN(6, width=2), lambda: (maps(6, 32, 32),), half=False),
    "resnet": Case(lambda: ResNetGenerator(3, width=2, blocks=2), lambda: (maps(3, 16, 16),), half=False),
    "unet": Case(lambda: UNetGenerator(3, width=2, levels=4), lambda: (maps(3, 32, 32),), half=False),
    "v1": Case(lambda: Lab2PixV1Generator(3, SETTINGS), lambda: (labels(), maps(8)), half=False),
    "v2": Case(lambda: Lab2PixV2Generator(3, SETTINGS), lambda: (labels(), maps(8)), half=False),
    "vgg": Case(NarrowVGG16, lambda: (maps(3, 32, 32),), half=False),
    "efficientnet-lite": Case(EfficientNetLite0, lambda: (maps(3, 32, 32),), half=False),
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def _kernels_for_small_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let convolutions as small as these run by Winograd's algorithm or as matrix products."""
    for name in ("_MIN_TILES", "_MIN_CHANNELS", "_MIN_CHANNELS_CONTIGUOUS"):
        monkeypatch.setattr(winograd, name, 0)
    monkeypatch.setattr(im2col, "_MIN_WEIGHTS", 2**8)
    monkeypatch.setattr(im2col, "_MAX_PIXELS", 16)


def leaves(tree: Any, dtype: torch.dtype, memory_format: torch.memory_format) -> Any:
    """Return a copy of inputs in a dtype and memory format that gradients reach."""

    def leaf(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.clone().to(dtype)
        return (value.contiguous(memory_format=memory_format) if value.ndim == 4 else value).requires_grad_()

    return pytree.tree_map(leaf, tree)


def run(network: nn.Module, inputs: Any, autocast: bool) -> dict[str, Tensor]:
    """Return outputs, the gradients of inputs and weights, and buffers."""
    with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext():
        outputs = [output for output in pytree.tree_leaves(network(*inputs)) if isinstance(output, Tensor)]
    sums = [(output * torch.linspace(-1, 1, output.numel()).view(output.shape)).sum() for output in outputs]
    torch.stack([value.double() for value in sums]).sum().backward()
    given = [value for value in pytree.tree_leaves(inputs) if isinstance(value, Tensor)]
    found = {f"output {place}": output for place, output in enumerate(outputs)}
    found |= {f"input {place}": value.grad for place, value in enumerate(given) if value.grad is not None}
    found |= {f"weight {name}": value.grad for name, value in network.named_parameters() if value.requires_grad}
    return found | {f"buffer {name}": value for name, value in network.named_buffers()}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "last"])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, id=f"{name}-{str(dtype).removeprefix('torch.')}")
        for name, case in CASES.items()
        for dtype in DTYPES
        if case.half or dtype != torch.bfloat16
    ],
)
def test_accelerated_equals_plain(name: str, dtype: torch.dtype, memory_format: torch.memory_format, mode: str) -> None:
    case, autocast = CASES[name], dtype == torch.bfloat16
    kind = torch.float32 if autocast else dtype
    plain = case.build().to(kind, memory_format=memory_format)
    fast = copy.deepcopy(plain)
    weights = list(fast.named_parameters())
    assert accelerate(fast, CPU) is fast
    assert all(
        name == old and value is same
        for (name, value), (old, same) in zip(fast.named_parameters(), weights, strict=True)
    )
    assert list(fast.state_dict()) == list(plain.state_dict())
    fast = copy.deepcopy(fast)  # as a moving average does

    given = case.inputs()
    found, expected = (
        run(network.train(mode == "train"), leaves(given, dtype, memory_format), autocast) for network in (fast, plain)
    )
    assert found.keys() == expected.keys()
    scale = torch.stack(
        [value.double().norm() for key, value in expected.items() if key.startswith("weight")] or [torch.ones(())]
    ).norm()
    limit = {torch.float64: 1e-6, torch.float32: 2e-3, torch.bfloat16: 4e-2}[dtype]
    exact = mode == "eval" and not isinstance(plain, VGG16 | EfficientNetLite0)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype, key
        if exact:
            assert torch.equal(found[key], value), key
        else:
            # Biases before a norm have a gradient of 0 up to rounding.
            allowed = limit * (value.double().norm() + 1e-2 * scale * key.startswith("weight"))
            assert (found[key].double() - value.double()).norm() <= allowed, key


@pytest.mark.slow
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("modulation", ["dg-norm", "spade"])
def test_accelerated_v2_computes_the_label_path_once_for_several_noises(modulation: Any, grad: bool) -> None:
    settings = GeneratorSettings(**{**vars(SETTINGS), "modulation": modulation})
    plain = Lab2PixV2Generator(3, settings).double()
    fast = accelerate(copy.deepcopy(plain), CPU)
    rows: list[int] = []
    assert isinstance(fast, Lab2PixV2Generator)
    fast.blocks[0].norm_0.shared.register_forward_hook(lambda *given: rows.append(len(given[-1])))
    condition, noise = labels().double(), torch.randn(6, 8).double()
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(fast(condition, noise), plain(condition, noise))
    assert rows == [2]
    for name, value in plain.named_buffers():
        torch.testing.assert_close(fast.get_buffer(name), value)


@pytest.mark.slow
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_accelerated_v2_checkpointing_changes_no_gradient_or_buffer(memory_format: torch.memory_format) -> None:
    fast = accelerate(Lab2PixV2Generator(3, SETTINGS).to(memory_format=memory_format), CPU)
    saving = copy.deepcopy(fast)
    assert isinstance(saving, Lab2PixV2Generator)
    saving.set_grad_checkpointing()
    given = (labels(), maps(8))
    for _ in range(2):  # the second step starts from the buffers that the first one left
        found = []
        for network in (fast, saving):
            network.zero_grad()
            found.append(run(network, given, autocast=False))
        for key, value in found[0].items():
            assert torch.equal(found[1][key], value), key


def test_accelerate_converts_each_module_once() -> None:
    network = nn.Sequential(GenResBlk(6, 4, 3, hidden=8), ConvNormAct(6, 8, 3), VGG16(), EfficientNetLite0())
    classes = [type(module) for module in accelerate(network, CPU).modules()]
    assert [type(module) for module in accelerate(network, CPU).modules()] == classes
    assert isinstance(network[0], FastGenResBlk) and isinstance(network[1], FastConvNormAct)
    assert isinstance(network[0].norm_0.shared, FastConv2d) and not isinstance(network[0].norm_0.shared, EvalConv2d)
    assert isinstance(network[2], FastBackbone) and isinstance(network[2].layers[0], EvalConv2d)


def test_accelerate_keeps_plain_convolutions_on_other_devices() -> None:
    block = GenResBlk(6, 4, 3, hidden=8)
    accelerate(block, torch.device("meta"))
    assert isinstance(block, FastGenResBlk)
    assert type(block.norm_0.shared) is nn.Conv2d


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("low", [False, True])
def test_accelerated_spectral_conv_caches_frozen_weights(low: bool, memory_format: torch.memory_format) -> None:
    """Within `parametrize.cached()`, one power iteration serves all passes, and the output is divided."""
    plain = conv2d(6, 8, 3).to(memory_format=memory_format).requires_grad_(False)
    fast = accelerate(copy.deepcopy(plain), CPU)
    for _ in range(2):
        x, photo = maps(6, 2, 2).requires_grad_(), maps(6, 2, 2)
        results = []
        for conv in (fast, plain):
            with parametrize.cached(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
                image = conv(x)
                with torch.no_grad():
                    results.append([image, conv(photo)])
            results[-1] += torch.autograd.grad(image.float().square().sum(), x)
        for mine, theirs in zip(*results, strict=True):
            assert float((mine - theirs).detach().norm() / theirs.detach().norm()) < (2e-2 if low else 1e-5)
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(fast.state_dict()[name], value, msg=name)


def gradient_penalty(network: nn.Module) -> Tensor:
    image = maps(6, 64, 64).requires_grad_()
    (slope,) = torch.autograd.grad(network(image, seen(2)).predictions[0].sum(), image, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradient_penalty_of_an_accelerated_discriminator_is_refused(memory_format: torch.memory_format) -> None:
    network = HierarchicalDiscriminator(6, (5, 5), levels=2, width=2, max_width=8).to(memory_format=memory_format)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient_penalty(accelerate(network, CPU)).backward()


class TestPrivateParts:
    def test_without_torchs_spectral_norm_its_convolutions_stay_plain(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_torch, "SpectralNorm", None)
        conv = conv2d(6, 8, 3)
        kind = type(conv)
        assert type(accelerate(conv, CPU)) is kind

    def test_parametrization_cache_is_torchs_within_its_context(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert _torch.parametrization_cache() is None
        with parametrize.cached():
            cache = _torch.parametrization_cache()
            assert cache == {}
            monkeypatch.delattr(parametrize, "_cache")
            assert _torch.parametrization_cache() is None

    def test_lerp_works_without_the_fused_kernel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ends, both = [torch.ones(3), torch.zeros(2)], []
        for _ in range(2):
            both.append([torch.zeros(3), torch.ones(2)])
            _torch.lerp_all_(both[-1], ends, 0.25)
            monkeypatch.setattr(torch, "_foreach_lerp_", None)
        assert all(torch.equal(*pair) for pair in zip(*both, strict=True))

    def test_packing_is_off_where_torch_lacks_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _torch.can_pack.cache_clear()
        monkeypatch.delattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
        assert not _torch.can_pack(torch.float32)
        _torch.can_pack.cache_clear()
