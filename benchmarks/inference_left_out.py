"""What prepared generators do not do, measured: ways to draw faster that were tried and left out.

    python benchmarks/inference_left_out.py --out benchmarks/results/inference_left_out.json

- class constants: scale and shift of a norm once per class for pixels whose 5x5 neighbourhood is of one class, and for
  each other pixel (the boundary band) by itself, in place of once per different neighbourhood. Answers are equal.
- one convolution: the first convolutions over the label map of all norms of a block as one, in place of one each.
- compiled modules: `torch.compile` of the networks as written; what the first picture takes is told beside.
- compiled norms: `torch.compile` of modulation and activation in the prepared generator, strip by strip.

Each stands beside what it would replace, in turns in one process; medians of processor time, all threads.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import inference
import torch
import torch.nn.functional as F
from _environment import environment, in_turns, write_json
from lab2pix.nn.prepared import PreparedGenerator
from lab2pix.nn.prepared_blocks import Hidden, LabelScale
from lab2pix.nn.prepared_parts import modulate
from torch import Tensor, nn

from lab2pix.nn import prepared_blocks

CPU = torch.device("cpu")
WAYS = ("fast", "fast-bf16")


def label_scales(
    kind: str, plain: Any, way: str, args: argparse.Namespace
) -> tuple[PreparedGenerator, list[LabelScale]]:
    """Return a prepared generator and the benchmark's label map at each of its scales."""
    row = next(row for row, (wanted, _) in inference.ROWS.items() if wanted == kind)
    drawer = inference.Drawer(row, way, plain, args, CPU)
    generator = drawer.generator
    assert isinstance(generator, PreparedGenerator)
    with torch.no_grad():
        return generator, generator._know(drawer.condition).scales


def fresh(scale: LabelScale) -> LabelScale:
    """Return a scale that nothing was made of yet."""
    return LabelScale(scale.symbols, scale.columns)


def band_of(symbols: Tensor) -> Tensor:
    """Tell of which pixels the 5x5 neighbourhood is not of one class or leaves the map, `[N, h, w]`."""
    padded = F.pad(symbols[:, None].float(), (2, 2, 2, 2), value=-1)
    return (F.max_pool2d(padded, 5, 1) != -F.max_pool2d(-padded, 5, 1))[:, 0]


def by_constants(norm: Any, scale: LabelScale, band: Tensor) -> Tensor:
    """Return scale and shift of every pixel, `[N, h, w, C + O]`, of class constants and a dense boundary band."""
    count, height, width = scale.size
    numbers, _ = scale.near
    table = norm.hidden.table(scale)  # different 3x3 neighbourhoods, as in the product
    near = F.pad(numbers, (1, 1, 1, 1), value=len(table) - 1)
    inside = (~band).flatten().nonzero()[:, 0]
    classes, which = torch.unique(scale.symbols.flatten()[inside], return_inverse=True)
    one_of_each = inside[torch.empty_like(classes).scatter_(0, which, torch.arange(len(which)))]
    places = torch.cat([one_of_each, band.flatten().nonzero()[:, 0]])
    image, row, column = places // (height * width), places // width % height, places % width
    offsets = torch.arange(3)
    taps = near[image[:, None, None], (row[:, None] + offsets)[:, :, None], (column[:, None] + offsets)[:, None]]
    values = norm.of_taps.of_taps(table, taps.flatten(1))
    index = torch.empty(count * height * width, dtype=torch.int64)
    index[inside] = which
    index[places[len(classes) :]] = torch.arange(len(classes), len(places))
    return values.index_select(0, index).view(count, height, width, -1)


def by_neighbourhoods(norm: Any, scale: LabelScale) -> Tensor:
    """Return the same as prepared generators make it."""
    table = norm.of_taps.of_taps(norm.hidden.table(scale), scale.far[1])
    return table.index_select(0, scale.far[0].flatten()).view(*scale.size, -1)


def class_constants(kind: str, plain: Any, way: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure at every scale where the product looks neighbourhoods up."""
    generator, scales = label_scales(kind, plain, way, args)
    rows = []
    for block, place in zip(generator.blocks, plain.block_scales, strict=True):
        norms = [norm for norm in block.norms if norm.looks_up(scales[place])]
        if not norms:
            continue

        def constants(norms: Any = norms, scale: LabelScale = scales[place]) -> list[Tensor]:
            scale = fresh(scale)
            band = band_of(scale.symbols)
            return [by_constants(norm, scale, band) for norm in norms]

        def product(norms: Any = norms, scale: LabelScale = scales[place]) -> list[Tensor]:
            scale = fresh(scale)
            return [by_neighbourhoods(norm, scale) for norm in norms]

        pairs = zip(constants(), product(), strict=True)
        scale = scales[place]
        row: dict[str, Any] = {"idea": "class constants", "of": kind, "way": way, "size": list(scale.size[1:])}
        row |= {"difference": max(float((one - other).abs().max()) for one, other in pairs)}
        row |= {"band": float(band_of(scale.symbols).float().mean()), "differing": len(scale.far[1]) / scale.places}
        times = in_turns({"s": constants, "product_s": product}, args.repeats)
        rows.append(row | times)
    return rows


def first_convolutions(
    pairs: Sequence[Any], by_table: bool, scale: LabelScale, dtype: torch.dtype, args: argparse.Namespace
) -> dict[str, float]:
    """Return what the first convolutions of some norms take as one, and one by one as in the product."""
    widths = [first.out_channels for _, first in pairs]
    joined = nn.Conv2d(pairs[0][1].in_channels, sum(widths), 3, padding=1).requires_grad_(False)
    joined.weight.copy_(torch.cat([first.weight for _, first in pairs]))
    joined.bias.copy_(torch.cat([first.bias for _, first in pairs]))  # type: ignore[union-attr]
    together = Hidden(joined, dtype)
    _ = scale.near, scale.one_hot  # known to both

    def made(hidden: Hidden) -> Tensor:
        return hidden.table(scale) if by_table else F.relu_(hidden.dense(scale.one_hot))

    def shared() -> list[Tensor]:
        return [part.contiguous() for part in made(together).split(widths, -1)]

    def apart() -> list[Tensor]:
        return [made(norm.hidden) for norm, _ in pairs]

    return in_turns({"s": shared, "product_s": apart}, args.repeats)


def one_convolution(kind: str, plain: Any, way: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the sum over all blocks."""
    generator, scales = label_scales(kind, plain, way, args)
    total = {"s": 0.0, "product_s": 0.0}
    for block, written, place in zip(generator.blocks, plain.blocks, plain.block_scales, strict=True):
        firsts = [getattr(written, name).shared for name in ("norm_0", "norm_1", "norm_s") if getattr(written, name)]
        pairs = list(zip(block.norms, firsts, strict=True))
        for by_table in (True, False):
            some = [(norm, first) for norm, first in pairs if norm.looks_up(scales[place]) == by_table]
            if some:
                for name, seconds in first_convolutions(some, by_table, scales[place], generator.dtype, args).items():
                    total[name] += seconds
    return [{"idea": "one convolution", "of": kind, "way": way} | total]


def compiled_modules(kind: str, plain: nn.Module, way: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure one picture, beside the prepared generator's; in float32 only."""
    if way != "fast":
        return []
    row = next(row for row, (wanted, pictures) in inference.ROWS.items() if wanted == kind and pictures == 1)
    written, prepared = (inference.Drawer(row, name, plain, args, CPU) for name in ("modules", "fast"))
    compiled = inference.Drawer(row, "modules", plain, args, CPU)
    compiled.generator = torch.compile(plain)  # type: ignore[assignment]
    start = time.perf_counter()
    compiled.draw()
    first = time.perf_counter() - start
    times = in_turns({"s": compiled.seconds, "modules_s": written.seconds, "product_s": prepared.seconds}, args.repeats)
    return [{"idea": "compiled modules", "of": kind, "way": way, "first_s": first} | times]


def compiled_norms(kind: str, plain: nn.Module, way: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure a picture of a new label map, and a further one of a known one."""
    program = torch.compile(modulate, dynamic=True)
    rows = []
    for name, (wanted, _) in inference.ROWS.items():
        if wanted != kind:
            continue
        drawer = inference.Drawer(name, way, plain, args, CPU)

        def drawn(function: Any, drawer: inference.Drawer = drawer) -> float:
            prepared_blocks.modulate = function
            try:
                return drawer.seconds()
            finally:
                prepared_blocks.modulate = modulate

        start = time.perf_counter()
        drawn(program)
        first = time.perf_counter() - start
        times: dict[str, list[float]] = {"s": [], "product_s": []}
        for _ in range(args.repeats):
            times["s"].append(drawn(program))
            times["product_s"].append(drawn(modulate))
        medians = {key: statistics.median(values) for key, values in times.items()}
        rows.append({"idea": "compiled norms", "of": name, "way": way, "first_s": first} | medians)
    return rows


IDEAS = (class_constants, one_convolution, compiled_norms, compiled_modules)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what is printed."""
    lines = [f"{'idea':<18}{'of':<20}{'way':<11}{'s':>9}{'product, s':>12}  beside"]
    for row in rows:
        beside = []
        if "band" in row:
            beside = [
                f"{row['size'][1]}x{row['size'][0]}",
                f"band {row['band']:.0%}",
                f"differing {row['differing']:.0%}",
            ]
        beside += [f"first picture {row['first_s']:.0f} s"] if "first_s" in row else []
        beside += [f"not compiled {row['modules_s']:.2f} s"] if "modules_s" in row else []
        line = f"{row['idea']:<18}{row['of']:<20}{row['way']:<11}{row['s']:>9.4f}{row['product_s']:>12.4f}"
        lines.append(f"{line}  {', '.join(beside)}")
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print; write everything with machine, versions and command where asked."""
    args = inference.arguments(given)
    torch.set_num_threads(args.threads)
    torch._dynamo.config.recompile_limit = 64  # one for each shape of a strip
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        for kind in dict(inference.ROWS.values()):
            plain = inference.build(kind, args, CPU)
            for way in WAYS:
                for idea in IDEAS:
                    rows += idea(kind, plain, way, args)
    print(table(rows))
    if args.out:
        write_json(args.out, environment() | {"seconds": "medians; of processor time, all threads", "rows": rows})


if __name__ == "__main__":
    main()
