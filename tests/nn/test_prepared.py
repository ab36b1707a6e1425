from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lab2pix.errors import ConfigError
from lab2pix.nn import prepared_parts
from lab2pix.nn.generators import Lab2PixV1Generator, Lab2PixV2Generator
from lab2pix.nn.neighbourhoods import neighbourhoods, places_in_blocks, symbols_of
from lab2pix.nn.prepared import prepare
from lab2pix.nn.prepared_parts import strips

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
        "width": st.sampled_from([2, 3, 8]), "doublings": st.sampled_from([5, 5, 6]),
        "modulation": st.sampled_from(["dg-norm", "spade"]), "modulation_hidden": st.sampled_from([2, 5, 16]),
        "global_width": st.sampled_from([2, 6]), "start": st.sampled_from(["noise", "label"]),
        "spectral_norm": st.booleans(),
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
    "one_by_one": st.booleans(),
    "strip": st.sampled_from([700, 3000, 8192]), "dtype": st.sampled_from([torch.float32, torch.bfloat16]),
}  # fmt: skip


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
    plain: Any, condition: Tensor, noise: Tensor, strip: int, dtype: torch.dtype, one_by_one: bool = True
) -> None:
    """Compare the first noise, a second one of the known label map, and the first once more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared_parts, "_STRIP", strip)
        fast = prepare(plain, dtype=dtype)
        fast.one_by_one = one_by_one
        first = fast(condition, noise)
        assert agrees(first, plain(condition, noise), dtype)
        assert fast.nbytes > 0
        assert agrees(fast(condition, -noise), plain(condition, -noise), dtype)
        assert largest_difference(fast(condition, noise), first) == 0


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(options=V2, edges=st.booleans(), **MAPS)
def test_v2_draws_as_the_plain_one(
    *, options: dict[str, Any], edges: bool, classes: int, kind: str, height: int, breadth: int, count: int,
    seed: int, strip: int, dtype: torch.dtype, one_by_one: bool,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    plain = Lab2PixV2Generator(classes + edges, start_size=(1, 2), global_max_width=16, noise_dim=4, **options)
    size = (height << options["doublings"], breadth << options["doublings"])
    condition = label_map(kind, classes, edges, size, count, seed)
    check(trained(plain, seed), condition, torch.randn(count, 4), strip, dtype, one_by_one)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(options=V1, doublings=st.sampled_from([5, 6]), **MAPS)
def test_v1_draws_as_the_plain_one(
    *, options: dict[str, Any], doublings: int, classes: int, kind: str, height: int, breadth: int, count: int,
    seed: int, strip: int, dtype: torch.dtype, one_by_one: bool,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    plain = Lab2PixV1Generator(
        classes, doublings=doublings, start_size=(1, 2), global_width=2, global_max_width=8, noise_dim=4, **options
    )
    condition = label_map(kind, classes, False, (height << doublings, breadth << doublings), count, seed)
    check(trained(plain, seed), condition, torch.randn(count, 4), strip, dtype, one_by_one)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(start=st.sampled_from(["noise", "label"]), options=V1, **(MAPS | {"classes": st.just(1), "kind": st.none()}))
def test_v1_draws_sketches_as_the_plain_one(
    *, start: Any, options: dict[str, Any], classes: int, kind: None, height: int, breadth: int, count: int,
    seed: int, strip: int, dtype: torch.dtype, one_by_one: bool,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    plain = Lab2PixV1Generator(
        classes, doublings=5, start_size=(1, 2), encoder="sketch", start=start, global_width=2, global_max_width=8,
        noise_dim=4, **options,
    )  # fmt: skip
    condition = sketch((height << 5, breadth << 5), count, seed)
    check(trained(plain, seed), condition, torch.randn(count, 4), strip, dtype, one_by_one)


class TestWhatIsKept:
    def build(self, **options: Any) -> tuple[Any, Any]:
        torch.manual_seed(0)
        plain = trained(Lab2PixV2Generator(3, width=4, start_size=(1, 1), modulation_hidden=4, noise_dim=4), 0)
        return plain, prepare(plain, **options)

    def test_the_label_path_runs_once_per_label_map(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _, fast = self.build()
        one, other = (label_map("blocks", 3, False, (64, 64), 1, seed) for seed in (0, 1))
        calls = []
        encoder = fast.encoder
        fast.encoder = lambda scale: calls.append(scale) or encoder(scale)
        fast.encoder.scales = encoder.scales
        for condition in (one, one.clone(), other, one):
            fast(condition, torch.randn(1, 4))
        assert len(calls) == 2
        fast.forget()
        assert fast.nbytes == 0
        fast(one, torch.randn(1, 4))
        assert len(calls) == 3

    def test_memory_is_bounded_and_used(self) -> None:
        _, fast = self.build()
        maps = [label_map("blocks", 3, False, (64, 64), 1, seed) for seed in range(4)]
        fast(maps[0], torch.randn(1, 4))
        fast.keep = 3 * fast.nbytes
        for condition in maps[1:]:
            fast(condition, torch.randn(1, 4))
            assert fast.nbytes <= fast.keep
        kept = fast.nbytes
        fast(maps[-1], torch.randn(1, 4))
        assert fast.nbytes == kept > fast.keep // 2

    def test_pictures_of_a_batch_do_not_depend_on_each_other(self) -> None:
        _, fast = self.build()
        maps = torch.cat([label_map("blocks", 3, False, (64, 64), 1, seed) for seed in range(3)])
        noise = torch.randn(3, 4)
        together = fast(maps, noise)
        for place in range(3):
            assert torch.equal(together[place : place + 1], fast(maps[place : place + 1], noise[place : place + 1]))

    def test_nothing_is_kept_where_nothing_may_be(self) -> None:
        plain, fast = self.build(keep=0)
        condition, noise = label_map("blocks", 3, False, (64, 64), 1, 0), torch.randn(1, 4)
        assert largest_difference(fast(condition, noise), plain(condition, noise)) < 1e-4
        assert fast.nbytes == 0

    def test_a_changed_pixel_is_another_label_map(self) -> None:
        plain, fast = self.build()
        condition, noise = label_map("one", 3, False, (64, 64), 1, 0), torch.randn(1, 4)
        fast(condition, noise)
        changed = condition.clone()
        changed[0, :, 40, 40] = changed[0, :, 40, 40].roll(1)
        assert largest_difference(fast(changed, noise), plain(changed, noise)) < 1e-4
        assert not torch.equal(fast(changed, noise), fast(condition, noise))


def test_blocks_compute_as_those_of_another_type() -> None:
    torch.manual_seed(0)
    plain = trained(Lab2PixV2Generator(3, width=4, start_size=(2, 2), modulation_hidden=4, noise_dim=4), 0)
    condition, noise = label_map("blocks", 3, False, (64, 64), 1, 0), torch.randn(1, 4)
    exact, rough = prepare(plain), prepare(plain, dtype=torch.bfloat16)
    images = plain(condition, noise)
    alone = rough(condition, noise)
    differences = []
    for count in (0, 4, 8):
        rough.compute_as(exact, range(count))
        differences.append(float((rough(condition, noise) - images).square().mean()))
    assert differences[0] > differences[1] > differences[2] > 0
    assert rough.encoder is exact.encoder
    rough.compute_as(exact, ())
    assert torch.equal(rough(condition, noise), alone)


def test_sizes_and_missing_noise_are_refused_as_by_the_plain_one() -> None:
    fast = prepare(trained(Lab2PixV2Generator(3, width=2, start_size=(1, 1)), 0))
    with pytest.raises(ConfigError, match="multiple of 32"):
        fast(torch.ones(1, 3, 33, 32), torch.randn(1, 128))
    with pytest.raises(ConfigError, match="noise"):
        fast(label_map("one", 3, False, (32, 32), 1, 0))
    with pytest.raises(ConfigError, match="Linear cannot be prepared"):
        prepare(nn.Linear(1, 1))


def test_the_plain_generator_stays_as_it_was() -> None:
    plain = trained(Lab2PixV2Generator(3, width=2, start_size=(1, 1)), 0)
    before = copy.deepcopy(plain.state_dict())
    prepare(plain)(label_map("blocks", 3, False, (64, 64), 1, 0), torch.randn(1, 128))
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("packed", [True, False])
def test_convolutions_agree_packed_or_not(packed: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(5, 7, 3, padding=1, stride=2)
    conv = prepared_parts.FoldedConv(
        *prepared_parts.folded(plain), dtype=torch.float32, device=torch.device("cpu"), stride=2, pack=packed
    )
    x = torch.randn(2, 9, 8, 5)
    expected = plain(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(conv(x), expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(kinds=st.integers(1, 6), height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 1000))
def test_neighbourhoods_are_told_apart(kinds: int, height: int, width: int, seed: int) -> None:
    symbols = torch.randint(kinds, (2, height, width), generator=torch.Generator().manual_seed(seed))
    numbers, taps = neighbourhoods(symbols, kinds)
    padded = nn.functional.pad(symbols, (1, 1, 1, 1), value=kinds)
    windows = padded.unfold(1, 3, 1).unfold(2, 3, 1).flatten(3)
    assert torch.equal(taps[numbers], windows)
    assert len(torch.unique(windows.flatten(0, 2), dim=0)) == len(taps)


def test_pixels_are_told_apart_even_where_their_sums_are_equal() -> None:
    condition = torch.randn(1, 3, 4, 4)
    condition[0, :, 0, 0] = 0
    from lab2pix.nn.neighbourhoods import _mixing

    first, second, _ = _mixing(3).tolist()
    condition[0, :, 0, 1] = torch.tensor([second, -first, 0.0])  # mixes to zero as well
    numbers, columns = symbols_of(condition)
    assert torch.equal(columns[numbers], condition.permute(0, 2, 3, 1))
    assert numbers[0, 0, 0] != numbers[0, 0, 1]


@pytest.mark.parametrize("factor", [1, 2, 4, 5, 8, 16])
def test_places_in_blocks_find_equal_convolutions(factor: int) -> None:
    small, weight = torch.randn(1, 1, 1, 3), torch.randn(1, 1, 1, 3)

    def twice(enlarged: int) -> Tensor:
        x = small.repeat_interleave(enlarged, 3)
        for _ in range(2):
            x = nn.functional.conv2d(x, weight, padding=(0, 1)).relu()
        return x[0, 0, 0]

    torch.testing.assert_close(twice(min(factor, 5))[places_in_blocks(3, factor, 2)], twice(factor))


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 3), height=st.integers(1, 300), width=st.integers(1, 300))
def test_strips_cover_every_row_once(count: int, height: int, width: int) -> None:
    seen = torch.zeros(count, height)
    for images, low, high in strips(count, height, width):
        assert high > low
        seen[images, low:high] += 1
    assert bool((seen == 1).all())
