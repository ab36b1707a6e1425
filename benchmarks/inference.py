"""Time, work and peak memory of drawing, through plain networks and through prepared ones.

    python benchmarks/inference.py --out benchmarks/results/inference.json

Plain is what SPADE and the released code do with the same weights: every norm resizes the whole one-hot label map and
convolves it densely, gamma and beta are two convolutions, the global feature is convolved pixel by pixel, spectral norm
divides every weight at every picture, batch norm is a layer of its own; float32, eager. Fast is what
`Synthesizer.optimize` offers. Label maps have regions (see `--regions`) so that about as many of their 5x5
neighbourhoods differ as in street scenes, because that decides what prepared generators cost; the share is printed.

All ways of a row run in one process, turn by turn, so that a drifting machine slows all of them alike; memory is
measured in a process per way. Seconds are the processor's own, so that other programs' turns do not count; on an
accelerator they are the clock's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _environment import environment, peak_resident, write_json
from inference_plain import plainly
from lab2pix.nn.neighbourhoods import neighbourhoods
from lab2pix.nn.prepared import PreparedGenerator, prepare
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lab2pix.nn.generators import Lab2PixV1Generator, Lab2PixV2Generator

WAYS = {"plain": None, "modules": None, "fast": torch.float32, "fast-bf16": torch.bfloat16}
"""Plain; the package's own modules, which save some of it; prepared, in two types."""
SEEDS = 8


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--classes", type=int, default=35)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--regions", type=int, default=48, help="points that a label map's regions lie around")
    parser.add_argument("--label", type=Path, help="a label map of ids to draw instead, a PNG file")
    parser.add_argument("--v2-size", type=int, nargs=2, default=(256, 256), metavar=("H", "W"))
    parser.add_argument("--v1-size", type=int, nargs=2, default=(256, 512), metavar=("H", "W"))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--no-memory", action="store_true", help="leave out what takes a process per way")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory-of", nargs=3, metavar=("DEVICE", "ROW", "WAY"), help=argparse.SUPPRESS)
    return parser.parse_args(given)


def build(kind: str, args: argparse.Namespace, device: torch.device) -> nn.Module:
    """Return a generator with random weights, and statistics and biases that are not those of a fresh one."""
    torch.manual_seed(0)
    height, width = args.v2_size if kind == "v2" else args.v1_size
    make = Lab2PixV2Generator if kind == "v2" else Lab2PixV1Generator
    doublings = 5 if kind == "v2" or min(height, width) < 128 else 7
    generator = make(
        args.classes, width=args.width, doublings=doublings, start_size=(height >> doublings, width >> doublings)
    )
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return generator.to(device).eval().requires_grad_(False)


def label_map(size: Sequence[int], args: argparse.Namespace) -> Tensor:
    """Return ids `[H, W]`: a file's, or regions around random points, of random classes, with uneven borders."""
    height, width = size
    if args.label is not None:
        from PIL import Image

        picture = Image.open(args.label).resize((width, height), Image.Resampling.NEAREST)
        return torch.tensor(list(picture.getdata())).view(height, width).clamp(max=args.classes - 1)
    random = torch.Generator().manual_seed(0)
    points = torch.rand(args.regions, 2, generator=random)
    grid = torch.stack(torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij"), -1)
    waves = F.interpolate(torch.randn(1, 2, 24, 24, generator=random), size=(height, width), mode="bicubic")[0]
    nearest = torch.cdist((grid + 0.015 * waves.permute(1, 2, 0)).view(-1, 2), points).argmin(1)
    return torch.randint(args.classes, (args.regions,), generator=random)[nearest].view(height, width)


def distinct(ids: Tensor, classes: int) -> float:
    """Return which part of a label map's 5x5 neighbourhoods differ."""
    numbers, kinds = neighbourhoods(ids[None], classes)
    return len(neighbourhoods(numbers, len(kinds))[1]) / ids.numel()


class Drawer:
    """One way to draw one row's pictures."""

    def __init__(self, row: str, way: str, plain: nn.Module, args: argparse.Namespace, device: torch.device) -> None:
        self.kind, self.pictures = ROWS[row]
        if WAYS[way] is None:  # nothing is kept, so that each more seed costs as much as the first
            self.pictures = 1
        self.way, self.device = way, device
        dtype = WAYS[way]
        self.generator: nn.Module = plain if dtype is None else prepare(plain, dtype=dtype)
        ids = label_map(args.v2_size if self.kind == "v2" else args.v1_size, args)
        self.condition = F.one_hot(ids, args.classes).permute(2, 0, 1)[None].float().to(device)
        self.noise = torch.randn(1 + SEEDS, 1, 128, generator=torch.Generator().manual_seed(1)).to(device)

    def draw(self, seed: int = 0) -> Tensor:
        """Draw the largest picture of a seed."""
        with torch.inference_mode(), plainly(self.generator, self.way == "plain"):
            images = self.generator(self.condition, self.noise[seed])
        return images if isinstance(images, Tensor) else images[0]

    def turn(self, measured: Callable[[Callable[[], Any]], float]) -> float:
        """Return what is measured of a picture: of a new label map, or, on average, of more seeds of one."""
        if isinstance(self.generator, PreparedGenerator) and self.pictures == 1:
            self.generator.forget()
        if self.pictures == 1:
            return measured(self.draw)
        if isinstance(self.generator, PreparedGenerator) and not self.generator.nbytes:
            self.draw()
        return measured(lambda: [self.draw(seed) for seed in range(1, 1 + self.pictures)]) / self.pictures

    def seconds(self) -> float:
        """Return the time of a picture."""

        def measured(draw: Callable[[], Any]) -> float:
            start = now(self.device)
            draw()
            return now(self.device) - start

        return self.turn(measured)

    def work(self) -> float:
        """Return the floating point operations of a picture in convolutions and matrix products, in 10^9."""

        def measured(draw: Callable[[], Any]) -> float:
            with FlopCounterMode(display=False) as counter:
                draw()
            return counter.get_total_flops() / 1e9

        if self.pictures > 1:
            self.draw()  # what is kept of the label map is no work of a further seed
        packed = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
        if packed is None:
            return self.turn(measured)
        # The counter does not know the packed convolution; count it as the plain one that it stands for.
        from lab2pix.nn.prepared_parts import FoldedConv

        counted = 0.0
        call = FoldedConv.of_channels

        def counting(conv: FoldedConv, x: Tensor, padding: tuple[int, int]) -> Tensor:
            nonlocal counted
            result = call(conv, x, padding)
            if conv.packed:
                counted += 2 * result.numel() * conv.reach * x.shape[1] / 1e9
            return result

        FoldedConv.of_channels = counting  # type: ignore[method-assign]
        try:
            seen = self.turn(measured)
        finally:
            FoldedConv.of_channels = call  # type: ignore[method-assign]
        return seen + counted / self.pictures


ROWS = {
    "V2, one picture": ("v2", 1), f"V2, {SEEDS} more seeds": ("v2", SEEDS), "V1, one picture": ("v1", 1),
    f"V1, {SEEDS} more seeds": ("v1", SEEDS),
}  # fmt: skip
"""What is drawn, and how many pictures a turn has."""


def now(device: torch.device) -> float:
    """Return what a clock shows: the processor's time for this process, or the time when the accelerator is done."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def peak(drawer: Drawer) -> float:
    """Return the peak of the memory that torch held while drawing, above that before, in MiB, by its own record."""
    if drawer.pictures > 1:  # what is kept is there already
        drawer.draw()
    if drawer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        drawer.draw()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        drawer.draw(1)
    events = list(profile.profiler.kineto_results.events())  # type: ignore[union-attr]
    held = highest = 0
    for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest / 2**20


def memory_of(device: str, row: str, way: str, args: argparse.Namespace) -> dict[str, float]:
    """Return peaks of one way, in a process that has drawn nothing else."""
    drawer = Drawer(row, way, build(ROWS[row][0], args, torch.device(device)), args, torch.device(device))
    highest = peak(drawer)
    kept = drawer.generator.nbytes / 2**20 if isinstance(drawer.generator, PreparedGenerator) else 0.0
    return {"peak_mib": highest, "kept_mib": kept, "process_mib": peak_resident()}


def measure(row: str, args: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Return one record per way to draw a row."""
    plain = build(ROWS[row][0], args, device)
    drawers = {way: Drawer(row, way, plain, args, device) for way in WAYS}
    reference = drawers["plain"].draw()
    work = {way: drawer.work() for way, drawer in drawers.items()}
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(args.repeats):
        for way, drawer in drawers.items():
            times[way].append(drawer.seconds())
    records = []
    for way, drawer in drawers.items():
        difference = drawer.draw() - reference
        record: dict[str, Any] = {
            "row": row,
            "way": way,
            "device": str(device),
            "seconds": statistics.median(times[way]),
        }
        record |= {"all_seconds": times[way], "gflop": work[way], "difference": float(difference.abs().max())}
        records.append(record)
    del plain, drawers, drawer
    for place, row_of_way in enumerate(records):
        records[place] = row_of_way | {"faster": records[0]["seconds"] / row_of_way["seconds"]}
        if not args.no_memory:
            command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", str(device), row, row_of_way["way"]]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            records[place] |= json.loads(output.splitlines()[-1])
            records[place]["memory_ratio"] = records[place]["peak_mib"] / records[0]["peak_mib"]
    return records


def table(records: list[dict[str, Any]]) -> str:
    """Return the table that is printed."""
    lines = [
        f"{'what':<22}{'way':<11}{'s':>8}{'faster':>8}{'GFLOP':>8}  {'differs':<8}{'MiB':>7}{'ratio':>7}{'kept':>6}"
    ]
    for record in records:
        line = f"{record['row']:<22}{record['way']:<11}{record['seconds']:>8.3f}{record['faster']:>8.2f}"
        line += f"{record['gflop']:>8.1f}  {record['difference']:<8.1e}"
        if "peak_mib" in record:
            line += f"{record['peak_mib']:>7.0f}{record['memory_ratio']:>7.2f}{record['kept_mib']:>6.0f}"
        lines.append(line)
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print."""
    args = arguments(given)
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print(json.dumps(memory_of(*args.memory_of, args)))
        return
    shares = {kind: distinct(label_map(size, args), args.classes) for kind, size in
              (("v2", args.v2_size), ("v1", args.v1_size))}  # fmt: skip
    print(f"5x5 neighbourhoods that differ: {shares['v2']:.1%} (V2), {shares['v1']:.1%} (V1)")
    records = []
    for row in args.rows:
        records += measure(row, args, torch.device("cpu"))
        print(table(records[-len(WAYS) :]), flush=True)
    if torch.cuda.is_available():
        for row in args.rows:
            records += measure(row, args, torch.device("cuda"))
            print(f"{torch.cuda.get_device_name()}\n{table(records[-len(WAYS) :])}", flush=True)
    else:
        print("No CUDA here: the rows of a GPU are skipped.")
    if args.out:
        settings = {"width": args.width, "classes": args.classes, "repeats": args.repeats}
        settings |= {"v2_size": list(args.v2_size), "v1_size": list(args.v1_size)}
        record = environment() | {
            "settings": settings,
            "differing_neighbourhoods": shares,
            "seconds": "medians; of processor time, all threads; on cuda by the clock",
            "peak": "above weights and what was kept before, by torch's record of allocations; process: largest ever",
            "gflop": "floating point operations of convolutions and matrix products, in 10^9",
            "rows": records,
        }
        write_json(args.out, record)


if __name__ == "__main__":
    main()
