from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lab2pix.errors import ConfigError
from lab2pix.nn.fast import fuse
from lab2pix.nn.fast.inference import layers
from lab2pix.nn.fast.inference.layers import row_tiles
from lab2pix.nn.fast.inference.patches import _projection, unique_patches3x3, unique_pixels, upsampled_index
from lab2pix.nn.generators import GeneratorSettings, Lab2PixV1Generator, Lab2PixV2Generator

LIMIT = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
WORST_IN_BF16 = 1e-1
"""Random networks of two channels carry bfloat16's rounding beyond the limit at a few values in a thousand."""


def trained(generator: nn.Module, seed: int) -> Any:
    """Give a generator statistics, biases and singular vectors as training does, and put it in evaluation mode."""
    random = torch.Generator().manual_seed(seed)
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=random)
            module.running_var.uniform_(0.5, 2, generator=random)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5, generator=random)
                module.bias.data.normal_(0, 0.2, generator=random)
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.data.normal_(0, 0.2, generator=random)
    return generator.eval().requires_grad_(False)


def label_map(kind: str, classes: int, edges: bool, size: tuple[int, int], count: int, seed: int) -> Tensor:
    """Return a condition of blocks, of noise or of one class, with a channel of borders if asked for."""
    random = torch.Generator().manual_seed(seed)
    step = {"blocks": 8, "noise": 1, "one": max(size)}[kind]
    coarse = torch.randint(classes, (count, -(-size[0] // step), -(-size[1] // step)), generator=random)
    ids = coarse.repeat_interleave(step, 1).repeat_interleave(step, 2)[:, : size[0], : size[1]]
    condition = nn.functional.one_hot(ids, classes).permute(0, 3, 1, 2).float()
    if not edges:
        return condition
    border = (torch.rand(count, 1, *size, generator=random) < 0.05).float()
    return torch.cat([condition, border], 1)


def sketch(size: tuple[int, int], count: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return 1 - 2 * (torch.rand(count, 1, *size, generator=random) < 0.02).float()


def largest_difference(left: Tensor | list[Tensor], right: Tensor | list[Tensor]) -> float:
    pairs = [(left, right)] if isinstance(left, Tensor) else list(zip(left, right, strict=True))
    assert all(one.shape == other.shape and one.dtype == other.dtype for one, other in pairs)
    return max(float((one - other).abs().max()) for one, other in pairs)


V2 = st.fixed_dictionaries(
    {
        "width": st.sampled_from([2, 3, 8]), "num_upsamples": st.sampled_from([5, 5, 6]),
        "modulation": st.sampled_from(["dg-norm", "spade"]), "modulation_hidden": st.sampled_from([2, 5, 16]),
        "global_width": st.sampled_from([2, 6]), "input": st.sampled_from(["noise", "label"]),
        "spectral_norm": st.booleans(), "global_upsample": st.sampled_from(["nearest", "bilinear"]),
        "upsample": st.sampled_from(["nearest", "bilinear"]),
    }
)  # fmt: skip
V1 = st.fixed_dictionaries(
    {
        "width": st.sampled_from([2, 5]), "modulation_hidden": st.sampled_from([2, 6]),
        "modulation": st.sampled_from(["dg-norm", "spade"]), "progressive": st.booleans(),
        "coattention": st.booleans(),
    }
)  # fmt: skip
MAPS = {
    "classes": st.integers(1, 12), "kind": st.sampled_from(["blocks", "noise", "one"]), "height": st.integers(1, 2),
    "breadth": st.integers(1, 2), "count": st.integers(1, 2), "seed": st.integers(0, 10_000),
    "batch_invariant": st.booleans(),
    "tile": st.sampled_from([700, 3000, 8192]), "dtype": st.sampled_from([torch.float32, torch.bfloat16]),
}  # fmt: skip


def v1(classes: int, **options: Any) -> Lab2PixV1Generator:
    own = {name: options.pop(name) for name in ("encoder", "progressive", "coattention") if name in options}
    given = GeneratorSettings(start_size=(1, 2), global_width=2, global_max_width=8, noise_dim=4, **options)
    return Lab2PixV1Generator(classes, given, **own)


def v2(**options: Any) -> Lab2PixV2Generator:
    return Lab2PixV2Generator(3, GeneratorSettings(start_size=(1, 1), **options))


def agrees(left: Tensor | list[Tensor], right: Tensor | list[Tensor], dtype: torch.dtype) -> bool:
    """Tell whether all values are within the limit; in bfloat16, all but a hundredth, and those not far from it."""
    worst = largest_difference(left, right)
    if dtype == torch.float32 or worst <= LIMIT[dtype]:
        return worst <= LIMIT[dtype]
    pairs = [(left, right)] if isinstance(left, Tensor) else list(zip(left, right, strict=True))
    differences = torch.cat([(one - other).abs().flatten() for one, other in pairs])
    beyond = float((differences > LIMIT[dtype]).float().mean())
    return beyond <= 0.01 and worst <= WORST_IN_BF16


def check(
    plain: Any, condition: Tensor, noise: Tensor, tile: int, dtype: torch.dtype, batch_invariant: bool = True
) -> None:
    """Compare the first noise, a second one of the known label map, and the first once more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "_TILE_PIXELS", tile)
        fast = fuse(plain, dtype=dtype)
        fast.batch_invariant = batch_invariant
        first = fast(condition, noise)
        assert agrees(first, plain(condition, noise), dtype)
        assert fast.nbytes > 0
        assert agrees(fast(condition, -noise), plain(condition, -noise), dtype)
        assert largest_difference(fast(condition, noise), first) == 0


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(options=V2, edges=st.booleans(), **MAPS)
def test_fused_v2_equals_plain(
    *, options: dict[str, Any], edges: bool, classes: int, kind: str, height: int, breadth: int, count: int,
    seed: int, tile: int, dtype: torch.dtype, batch_invariant: bool,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    given = GeneratorSettings(start_size=(1, 2), global_max_width=16, noise_dim=4, **options)
    plain = Lab2PixV2Generator(classes + edges, given)
    size = (height << options["num_upsamples"], breadth << options["num_upsamples"])
    condition = label_map(kind, classes, edges, size, count, seed)
    check(trained(plain, seed), condition, torch.randn(count, 4), tile, dtype, batch_invariant)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(options=V1, upsamples=st.sampled_from([5, 6]), **MAPS)
def test_fused_v1_equals_plain(
    *, options: dict[str, Any], upsamples: int, classes: int, kind: str, height: int, breadth: int, count: int,
    seed: int, tile: int, dtype: torch.dtype, batch_invariant: bool,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    plain = v1(classes, num_upsamples=upsamples, **options)
    condition = label_map(kind, classes, False, (height << upsamples, breadth << upsamples), count, seed)
    check(trained(plain, seed), condition, torch.randn(count, 4), tile, dtype, batch_invariant)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(start=st.sampled_from(["noise", "label"]), options=V1, **(MAPS | {"classes": st.just(1), "kind": st.none()}))
def test_fused_v1_of_sketches_equals_plain(
    *, start: Any, options: dict[str, Any], classes: int, kind: None, height: int, breadth: int, count: int,
    seed: int, tile: int, dtype: torch.dtype, batch_invariant: bool,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    plain = v1(classes, encoder="sketch", input=start, **options)
    condition = sketch((height << 5, breadth << 5), count, seed)
    check(trained(plain, seed), condition, torch.randn(count, 4), tile, dtype, batch_invariant)


class TestCache:
    def build(self, **options: Any) -> tuple[Any, Any]:
        torch.manual_seed(0)
        plain = trained(v2(width=4, modulation_hidden=4, noise_dim=4), 0)
        return plain, fuse(plain, **options)

    def test_cache_runs_the_label_path_once_per_label_map(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _, fast = self.build()
        one, other = (label_map("blocks", 3, False, (64, 64), 1, seed) for seed in (0, 1))
        calls = []
        call = type(fast.encoder).__call__
        monkeypatch.setattr(type(fast.encoder), "__call__", lambda *given: calls.append(given) or call(*given))
        for condition in (one, one.clone(), other, one):
            fast(condition, torch.randn(1, 4))
        assert len(calls) == 2
        fast.clear_cache()
        assert fast.nbytes == 0
        fast(one, torch.randn(1, 4))
        assert len(calls) == 3

    def test_cache_memory_is_bounded_and_used(self) -> None:
        _, fast = self.build()
        maps = [label_map("blocks", 3, False, (64, 64), 1, seed) for seed in range(4)]
        fast(maps[0], torch.randn(1, 4))
        fast.cache_bytes = 3 * fast.nbytes
        for condition in maps[1:]:
            fast(condition, torch.randn(1, 4))
            assert fast.nbytes <= fast.cache_bytes
        kept = fast.nbytes
        fast(maps[-1], torch.randn(1, 4))
        assert fast.nbytes == kept > fast.cache_bytes // 2

    def test_fused_images_of_a_batch_are_independent(self) -> None:
        _, fast = self.build()
        maps = torch.cat([label_map("blocks", 3, False, (64, 64), 1, seed) for seed in range(3)])
        noise = torch.randn(3, 4)
        together = fast(maps, noise)
        for place in range(3):
            assert torch.equal(together[place : place + 1], fast(maps[place : place + 1], noise[place : place + 1]))

    def test_cache_can_be_off(self) -> None:
        plain, fast = self.build(cache_bytes=0)
        condition, noise = label_map("blocks", 3, False, (64, 64), 1, 0), torch.randn(1, 4)
        assert largest_difference(fast(condition, noise), plain(condition, noise)) < 1e-4
        assert fast.nbytes == 0

    def test_cache_notices_a_changed_pixel(self) -> None:
        plain, fast = self.build()
        condition, noise = label_map("one", 3, False, (64, 64), 1, 0), torch.randn(1, 4)
        fast(condition, noise)
        changed = condition.clone()
        changed[0, :, 40, 40] = changed[0, :, 40, 40].roll(1)
        assert largest_difference(fast(changed, noise), plain(changed, noise)) < 1e-4
        assert not torch.equal(fast(changed, noise), fast(condition, noise))


def test_fused_generator_refuses_wrong_sizes_and_missing_noise() -> None:
    fast = fuse(trained(v2(width=2), 0))
    with pytest.raises(ConfigError, match="multiple of 32"):
        fast(torch.ones(1, 3, 33, 32), torch.randn(1, 128))
    with pytest.raises(ConfigError, match="noise"):
        fast(label_map("one", 3, False, (32, 32), 1, 0))
    with pytest.raises(ConfigError, match="Linear cannot be fused"):
        fuse(nn.Linear(1, 1))


def test_fuse_keeps_the_plain_generator() -> None:
    plain = trained(v2(width=2), 0)
    before = copy.deepcopy(plain.state_dict())
    fuse(plain)(label_map("blocks", 3, False, (64, 64), 1, 0), torch.randn(1, 128))
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("packed", [True, False])
def test_folded_conv_is_equal_packed_or_not(packed: bool) -> None:
    plain = nn.Conv2d(5, 7, 3, padding=1, stride=2)
    conv = layers.FoldedConv(
        *layers.fold_conv(plain), dtype=torch.float32, device=torch.device("cpu"), stride=2, pack=packed
    )
    x = torch.randn(2, 9, 8, 5)
    expected = plain(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(conv(x), expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(kinds=st.integers(1, 6), height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 1000))
def test_unique_patches3x3_are_distinct(kinds: int, height: int, width: int, seed: int) -> None:
    symbols = torch.randint(kinds, (2, height, width), generator=torch.Generator().manual_seed(seed))
    numbers, taps = unique_patches3x3(symbols, kinds)
    padded = nn.functional.pad(symbols, (1, 1, 1, 1), value=kinds)
    windows = padded.unfold(1, 3, 1).unfold(2, 3, 1).flatten(3)
    assert torch.equal(taps[numbers], windows)
    assert len(torch.unique(windows.flatten(0, 2), dim=0)) == len(taps)


def test_unique_pixels_are_distinct_where_their_projections_are_equal() -> None:
    condition = torch.randn(1, 3, 4, 4)
    condition[0, :, 0, 0] = 0
    first, second, _ = _projection(3).tolist()
    condition[0, :, 0, 1] = torch.tensor([second, -first, 0.0])  # mixes to zero as well
    numbers, columns = unique_pixels(condition)
    assert torch.equal(columns[numbers], condition.permute(0, 2, 3, 1))
    assert numbers[0, 0, 0] != numbers[0, 0, 1]


@pytest.mark.parametrize("factor", [1, 2, 4, 5, 8, 16])
def test_upsampled_index_finds_equal_convolutions(factor: int) -> None:
    small, weight = torch.randn(1, 1, 1, 3), torch.randn(1, 1, 1, 3)

    def twice(enlarged: int) -> Tensor:
        x = small.repeat_interleave(enlarged, 3)
        for _ in range(2):
            x = nn.functional.conv2d(x, weight, padding=(0, 1)).relu()
        return x[0, 0, 0]

    torch.testing.assert_close(twice(min(factor, 5))[upsampled_index(3, factor, 2)], twice(factor))


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 3), height=st.integers(1, 300), width=st.integers(1, 300))
def test_row_tiles_cover_every_row_once(count: int, height: int, width: int) -> None:
    seen = torch.zeros(count, height)
    for images, low, high in row_tiles(count, height, width):
        assert high > low
        seen[images, low:high] += 1
    assert bool((seen == 1).all())
