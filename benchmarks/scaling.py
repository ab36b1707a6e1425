"""What a training step and a picture of Lab2Pix-V2 cost as size, width, classes, batch and processes grow.

    python benchmarks/scaling.py --out benchmarks/results/scaling.json

One of them changes at a time, the others stay at the base. Plain is the way of SPADE and the released code, as in
`train_step.py` and `inference.py`; present is the step with all savings, and for a picture the prepared generator
(`lab2pix generate --fast`), both in float32. Both ways run in one process, turn by turn. Seconds are the processor's
own, so that other programs' turns do not count; on an accelerator they are the clock's. Processes are started by
torchrun, on one thread each, every one with a batch of its own; how long they wait for each other shows on the clock
only, so steps there are timed by both.
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
from pathlib import Path
from typing import Any

import inference
import torch
import torch.nn.functional as F
from surroundings import surroundings, write_json
from torch import Tensor
from train_step import Step
from train_step_plain import PlainParts
from train_step_v2 import MEANING, Variant

from lab2pix.batch import Batch
from lab2pix.config.schema import RunConfig
from lab2pix.labels.space import LabelSpace
from lab2pix.recipes import load_config
from lab2pix.training.state import build_state
from lab2pix.training.step import build_step_context, training_step
from lab2pix.utils.distributed import init_distributed

WAYS = {"plain": frozenset[str](), "present": frozenset(MEANING)}
PROCESS_WAYS = {"plain": frozenset({"discriminator_frozen"}), "present": frozenset(MEANING)}
"""With several processes gradients that nobody uses would be exchanged, which torch refuses: that saving stays."""
DRAWING = {"plain": "plain", "present": "fast"}
"""What `inference.py` calls them."""


@dataclass(frozen=True)
class Point:
    """Where something is measured."""

    size: int
    width: int
    classes: int
    batch: int


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--base", type=int, nargs=4, default=(128, 16, 35, 2), metavar=("SIZE", "WIDTH", "CLASSES", "BATCH")
    )
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
    """Yield what changes, its value, and where that is."""
    base = Point(*args.base)
    for axis in ("size", "width", "classes", "batch"):
        for value in getattr(args, axis):
            yield axis, value, replace(base, **{axis: value})


def configuration(point: Point) -> RunConfig:
    """Return V2 with small networks; its eyes hold random weights."""
    widths = (f"{part}={point.width}" for part in ("generator.width", "discriminator.width"))
    limits = (f"{part}={8 * point.width}" for part in ("discriminator.max_width", "generator.global_encoder.max_width"))
    hidden = f"generator.modulation_hidden={2 * point.width}", f"generator.global_encoder.width={point.width}"
    size = f"data.size=[{point.size},{point.size}]", f"train.batch_size={point.batch}"
    return load_config(
        "v2-small", ["discriminator.scales=2", "loss.cycle=0", *widths, *limits, *hidden, *size, "train.accumulate=1"]
    )


def label_maps(point: Point) -> Tensor:
    """Return ids `[batch, size, size]`: regions around points, of other classes in each map."""
    args = argparse.Namespace(classes=point.classes, regions=48, label=None)
    ids = inference.label_map((point.size, point.size), args)
    random = torch.Generator().manual_seed(0)
    return torch.stack([torch.randperm(point.classes, generator=random)[ids] for _ in range(point.batch)])


def build(point: Point, device: torch.device) -> tuple[Variant, Batch, Tensor]:
    """Return a method with random weights, and something to train on."""
    torch.manual_seed(0)
    config = configuration(point)
    space = LabelSpace.from_dict({"name": "made", "classes": [f"class {i}" for i in range(point.classes)]})
    method = Variant(config, space, pretrained=False)
    method.to(device)
    image = torch.rand(point.batch, 3, point.size, point.size) * 2 - 1
    noise = torch.randn(point.batch, config.generator.noise_dim)
    return method, Batch(label=label_maps(point), image=image).to(device), noise.to(device)


def turns(ways: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Return the median of what each way takes, all in turn."""
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for repeat in range(repeats + 1):
        for way, take in ways.items():
            seconds = take()
            if repeat:  # the first round warms up
                taken[way].append(seconds)
    return {way: statistics.median(each) for way, each in taken.items()}


def training(point: Point, device: torch.device, repeats: int) -> dict[str, dict[str, float]]:
    """Return seconds, work and memory of a training step in each way."""
    step = Step(*build(point, device))

    def take(savings: frozenset[str]) -> float:
        step.use(savings)
        return sum(step.times())

    seconds = turns({way: lambda savings=savings: take(savings) for way, savings in WAYS.items()}, repeats)  # type: ignore[misc]
    found = {}
    for way, savings in WAYS.items():
        step.use(savings)
        found[way] = {"seconds": seconds[way], "gflop": 1000 * step.work(), "peak_mib": max(step.peaks())}
    step.parts.restore()
    return found


def drawing(point: Point, device: torch.device, repeats: int) -> dict[str, dict[str, float]]:
    """Return seconds, work and memory of drawing a batch of new label maps in each way, with the step's generator."""
    size = (point.size, point.size)
    args = argparse.Namespace(classes=point.classes, v2_size=size, label=None, regions=48)
    network = build(point, device)[0].generator.eval().requires_grad_(False)
    drawers = {}
    for way, name in DRAWING.items():
        drawer = drawers[way] = inference.Drawer("V2, one picture", name, network, args, device)
        drawer.condition = F.one_hot(label_maps(point), point.classes).permute(0, 3, 1, 2).float().to(device)
        drawer.noise = drawer.noise.expand(-1, point.batch, -1)
    seconds = turns({way: drawer.seconds for way, drawer in drawers.items()}, repeats)
    found = {}
    for way, drawer in drawers.items():
        work = drawer.work()
        if hasattr(drawer.generator, "forget"):
            drawer.generator.forget()
        found[way] = {"seconds": seconds[way], "gflop": work, "peak_mib": inference.peak(drawer)}
    return found


def measure(axis: str, value: int, point: Point, device: torch.device, repeats: int) -> list[dict[str, Any]]:
    """Return a record for the step and for the picture in each way."""
    records = []
    for what, work in (("step", training), ("picture", drawing)):
        found = work(point, device, repeats)
        for way, record in found.items():
            faster = found["plain"]["seconds"] / record["seconds"]
            records.append({"axis": axis, "value": value, "what": what, "way": way, "device": str(device)} | record)
            records[-1]["faster"] = faster
            print(line(records[-1]), flush=True)
    return records


def line(record: dict[str, Any]) -> str:
    """Return a line of the table."""
    return (
        f"{record['axis']:<9}{record['value']:>5}  {record['what']:<9}{record['way']:<9}{record['seconds']:>8.3f}"
        f"{record['faster']:>8.2f}{record['gflop']:>9.1f}{record['peak_mib']:>8.0f}"
    )


def process(args: argparse.Namespace) -> None:
    """Train beside other processes, and let the first write down how long its steps took."""
    torch.set_num_threads(1)
    with init_distributed("cpu") as team:
        method, batch, noise = build(Point(*args.base), team.device)
        parts = PlainParts(method)
        state = build_state(method, method.config, team.device)
        engine = replace(build_step_context(method.config, state, team.device), progress=0.5)
        networks = {name: team.wrap(player) for name, player in method.networks.items()}
        processor: dict[str, list[float]] = {}

        def take(way: str) -> float:
            parts.use(PROCESS_WAYS[way])
            clock, own = time.perf_counter(), time.process_time()
            training_step(state, networks, [(batch, noise)], engine, team)
            processor.setdefault(way, []).append(time.process_time() - own)
            return time.perf_counter() - clock

        clocks = turns({way: lambda way=way: take(way) for way in WAYS}, args.repeats)  # type: ignore[misc]
        parts.restore()
        if team.main:
            own = {way: statistics.median(each[1:]) for way, each in processor.items()}
            args.process.write_text(json.dumps({"clock": clocks, "processor": own}))


def together(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a record per number of processes and way: what all of them do in a second."""
    records: list[dict[str, Any]] = []
    base = [str(value) for value in args.base]
    for count in args.processes:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "times.json"
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
            command += [__file__, "--base", *base, "--repeats", str(args.repeats), "--process", str(out)]
            subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
            found = json.loads(out.read_text())
        for way, clock in found["clock"].items():
            record = {
                "axis": "processes",
                "value": count,
                "what": "step",
                "way": way,
                "device": "cpu",
                "seconds": clock,
            }
            record |= {"processor_s": found["processor"][way], "faster": found["clock"]["plain"] / clock}
            records.append(record | {"steps_per_s": count / clock, "samples_per_s": count * args.base[3] / clock})
            print(
                f"processes{count:>5}  step     {way:<9}{clock:>8.3f}{record['faster']:>8.2f}"
                f"{records[-1]['steps_per_s']:>9.2f} steps/s in all, {record['processor_s']:.3f} s of processor each",
                flush=True,
            )
    return records


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print; write everything with machine, versions and command where asked."""
    args = arguments(given)
    if args.process:
        process(args)
        return
    torch.set_num_threads(args.threads)
    print(f"{'changes':<9}{'to':>5}  {'what':<9}{'way':<9}{'s':>8}{'faster':>8}{'GFLOP':>9}{'MiB':>8}")
    records: list[dict[str, Any]] = []
    for device in [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]:
        for axis, value, point in points(args):
            records += measure(axis, value, point, device, args.repeats)
            write(records, args)
    if not torch.cuda.is_available():
        print("No CUDA here: the rows of a GPU are skipped.")
    records += together(args)
    write(records, args)


def write(records: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Write what was measured so far with machine, versions and command, where asked."""
    if args.out is None:
        return
    base = dict(zip(("size", "width", "classes", "batch"), args.base, strict=True))
    record = surroundings() | {
        "base": base,
        "repeats": args.repeats,
        "seconds": "medians; of processor time, all threads; on cuda, and with processes, by the clock",
        "peak": "above weights and what was kept before, by torch's record of allocations",
        "gflop": "floating point operations of convolutions and matrix products, in 10^9",
        "rows": records,
    }
    write_json(args.out, record)


if __name__ == "__main__":
    main()
