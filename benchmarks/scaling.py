"""Cost of a Lab2Pix-V2 training step and of generating images as size, width, classes, batch and processes grow.

    python benchmarks/scaling.py --out benchmarks/results/scaling.json

One value changes at a time; the others keep their base. Images are generated through the plain network and with
`optimize("fast")`, both in float32. Seconds are the processor's, or the clock's on a CUDA device and with several
processes. Processes are started by torchrun, on one thread each, and each has a batch of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _environment import TrainingSteps, environment, in_turns, peak_allocated, seconds, write_json
from torch import Tensor

from lab2pix import LabelSpace, Synthesizer
from lab2pix.batch import Batch
from lab2pix.inference import ModelInfo
from lab2pix.inference.modes import Mode
from lab2pix.recipes import load_config
from lab2pix.utils.distributed import DistributedContext, init_distributed

MODES: tuple[Mode, ...] = ("plain", "fast")


@dataclass(frozen=True)
class Point:
    """Values that may change; `size` is height and width."""

    size: int
    width: int
    classes: int
    batch: int


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("SIZE", "WIDTH", "CLASSES", "BATCH")
    parser.add_argument("--base", type=int, nargs=4, default=(128, 16, 35, 2), metavar=names)
    parser.add_argument("--size", type=int, nargs="*", default=[64, 128, 256], help="height and width")
    parser.add_argument("--width", type=int, nargs="*", default=[8, 16, 32])
    parser.add_argument("--classes", type=int, nargs="*", default=[12, 35, 151])
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    parser.add_argument("--process", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(given)


def points(args: argparse.Namespace) -> Iterator[tuple[str, int, Point]]:
    """Yield the name that changes, its value, and the point."""
    base = Point(*args.base)
    for axis in ("size", "width", "classes", "batch"):
        for value in getattr(args, axis):
            yield axis, value, replace(base, **{axis: value})


def label_maps(point: Point) -> Tensor:
    """Return ids `[batch, size, size]`: Voronoi regions of random points, with other classes in each map."""
    random = torch.Generator().manual_seed(0)
    centers = torch.rand(48, 2, generator=random)
    side = torch.linspace(0, 1, point.size)
    grid = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).view(-1, 2)
    region = torch.cdist(grid, centers).argmin(1).view(point.size, point.size)
    return torch.randint(point.classes, (point.batch, 48), generator=random)[:, region]


def build(point: Point, dist: DistributedContext | None = None) -> tuple[TrainingSteps, Batch]:
    """Return a training with random weights and a batch for it."""
    settings = [f"{part}={point.width}" for part in ("generator.width", "discriminator.width")]
    settings += [f"generator.global_encoder.width={point.width}", f"generator.modulation_hidden={2 * point.width}"]
    settings += [f"{part}.max_width={8 * point.width}" for part in ("discriminator", "generator.global_encoder")]
    settings += [f"data.size=[{point.size},{point.size}]", f"train.batch_size={point.batch}", "train.accumulate=1"]
    config = load_config("v2-small", ["discriminator.scales=2", "loss.cycle=0", *settings])
    space = LabelSpace.from_dict({"name": "made", "classes": [f"class {i}" for i in range(point.classes)]})
    steps = TrainingSteps(config, dist, space, pretrained=False)
    image = torch.rand(point.batch, 3, point.size, point.size) * 2 - 1
    return steps, Batch(label=label_maps(point), image=image).to(steps.device)


def measure(point: Point, device: torch.device, repeats: int) -> Iterator[dict[str, Any]]:
    """Yield seconds and peak memory of a training step, and of a batch of images in each mode."""
    steps, batch = build(point, DistributedContext(0, 1, device))

    def record(what: str, call: Callable[[], Any], taken: float) -> dict[str, Any]:
        return {"what": what, "device": str(device), "seconds": taken, "peak_mib": peak_allocated(call, device)}

    def step() -> None:
        steps(batch)

    yield record("step", step, in_turns({"step": step}, repeats, lambda: seconds(device))["step"])
    info = ModelInfo(steps.config, steps.label_space, 0)
    taken: dict[str, list[float]] = {}
    for repeat in range(repeats + 1):
        for mode in MODES:
            # A new synthesizer has no features of an earlier label map.
            synthesizer = Synthesizer(steps.state.method.networks["generator"], info, device=device, optimize=mode)
            noise = synthesizer.noise_samples(0, point.batch)
            start = seconds(device)
            synthesizer.generate(batch, noise)
            if repeat:
                taken.setdefault(mode, []).append(seconds(device) - start)
    for mode in MODES:
        synthesizer = Synthesizer(steps.state.method.networks["generator"], info, device=device, optimize=mode)
        generate = partial(synthesizer.generate, batch, noise)
        yield record(f"images, {mode}", generate, statistics.median(taken[mode]))


def process(args: argparse.Namespace) -> None:
    """Train together with other processes; the first one writes the seconds of a step."""
    torch.set_num_threads(1)
    with init_distributed("cpu") as dist:
        steps, batch = build(Point(*args.base), dist)
        taken = in_turns({"step": lambda: steps(batch)}, args.repeats, time.perf_counter)["step"]
        if dist.main:
            args.process.write_text(json.dumps(taken))


def together(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a record per number of processes."""
    for count in args.processes:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "times.json"
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
            command += [__file__, "--base", *map(str, args.base), "--repeats", str(args.repeats), "--process", str(out)]
            subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
            taken = json.loads(out.read_text())
        yield {"axis": "processes", "value": count, "what": "step", "device": "cpu", "seconds": taken} | {
            "steps_per_s": count / taken
        }


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a record per point, device and thing that is timed."""
    for device in [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]:
        for axis, value, point in points(args):
            for record in measure(point, device, args.repeats):
                yield {"axis": axis, "value": value} | record
    yield from together(args)


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print; write a JSON if asked to, after each row."""
    args = arguments(given)
    if args.process:
        process(args)
        return
    torch.set_num_threads(args.threads)
    found: list[dict[str, Any]] = []
    for row in rows(args):
        found.append(row)
        rest = f"{row['peak_mib']:8.0f} MiB" if "peak_mib" in row else f"{row['steps_per_s']:8.2f} steps/s in all"
        print(f"{row['axis']:<10}{row['value']:>5}  {row['what']:<15}{row['device']:<6}{row['seconds']:8.3f} s{rest}")
        if args.out:
            base = dict(zip(("size", "width", "classes", "batch"), args.base, strict=True))
            write_json(args.out, environment() | {"base": base, "repeats": args.repeats, "rows": found})


if __name__ == "__main__":
    main()
