"""Time and peak memory of one training step of Lab2Pix-V1 or V2, and the same step with each saving switched off.

    python benchmarks/train_step.py --method v2 --width 64 --size 256 256 --repeats 5 --out train_step.json

The savings are the product's own step; switching one off puts the plain way in its place, the way that the released
code and SPADE do it. All variants run in one process, turn by turn, so that a drifting machine slows all of them alike.
Seconds are the processor's own, so that other programs' turns do not count; on an accelerator they are the clock's.
Backbones hold random weights: neither time nor memory depends on their values.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import train_step_v1
import train_step_v2
from surroundings import processor
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from train_step_plain import PlainHalves, PlainParts

import lab2pix
from lab2pix.batch import Batch
from lab2pix.configuration import load_config
from lab2pix.labels import LabelSpace
from lab2pix.methods import Engine
from lab2pix.methods.adversarial import Carry
from lab2pix.methods.base import Losses

METHODS: dict[str, ModuleType] = {"v1": train_step_v1, "v2": train_step_v2}
ENGINE = Engine(progress=0.5)
BOUNDARY = "discriminators' half"


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=METHODS, default="v2")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--segmenter-width", type=int, default=32, help="of V1's ICNets")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--backbones", nargs=2, metavar=("DISCRIMINATOR", "LOSS"), help="default: as the presets have")
    parser.add_argument("--only-ends", action="store_true", help="measure all savings and none, not each by itself")
    parser.add_argument("--out", type=Path)
    return parser.parse_args(given)


def build(args: argparse.Namespace) -> tuple[PlainHalves, Batch, Tensor]:
    """Return the step under test with random weights, and something to train on."""
    module, (height, width) = METHODS[args.method], args.size
    fitting = [count for count in module.DOUBLINGS if min(height, width) >> count >= 2]
    if not fitting:
        sys.exit(f"--size {height} {width} is too small for --method {args.method}; take at least 64 64.")
    overrides = [
        f"data.size=[{height},{width}]",
        f"generator.doublings={fitting[0]}",
        f"generator.width={args.width}",
        f"discriminator.width={args.width}",
        f"discriminator.max_width={8 * args.width}",
        f"segmenter.width={args.segmenter_width}",
        f"train.batch_size={args.batch}",
        "data.instance_edges=false",
    ]
    if args.backbones:
        overrides += [f"backbone.discriminator={args.backbones[0]}", f"backbone.perceptual={args.backbones[1]}"]
    torch.manual_seed(0)
    method = module.Variant(load_config(module.PRESET, overrides), LabelSpace.load("cityscapes"), pretrained=False)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    method.to(device)
    blocks = torch.randint(0, 35, (args.batch, height // 16, width // 16))
    label = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)
    batch = Batch(label=label, image=torch.rand(args.batch, 3, height, width) * 2 - 1).to(device)
    return method, batch, torch.randn(args.batch, method.config.generator.noise_dim, device=device)


class Step:
    """A step in two halves, with the savings that were last asked for."""

    def __init__(self, method: PlainHalves, batch: Batch, noise: Tensor) -> None:
        self.method, self.batch, self.noise = method, batch, noise
        self.parts = PlainParts(method)

    def use(self, savings: frozenset[str]) -> None:
        """Switch savings, and drop the gradients of the step before."""
        self.parts.use(savings)
        for player in self.method.players.values():
            player.zero_grad(set_to_none=True)

    def generator_half(self) -> tuple[Carry, Losses]:
        """Fill the generator's gradients, and V1's segmenters'."""
        player = self.method.players["generator"]
        player.zero_grad(set_to_none=True)
        return self.method.generator_backward(player, self.batch, self.noise, ENGINE)

    def discriminator_half(self, carry: Carry) -> Losses:
        """Fill the discriminators' gradients."""
        return self.method.discriminator_backward(self.method.discriminator, carry, ENGINE)

    def work(self) -> float:
        """Take a step; return its floating point operations in convolutions and matrix products, in 10^12."""
        with FlopCounterMode(display=False) as counter:
            self.discriminator_half(self.generator_half()[0])
        return counter.get_total_flops() / 1e12

    def times(self) -> tuple[float, float]:
        """Take a step; return the seconds of its halves."""
        start = seconds()
        carry, _ = self.generator_half()
        middle = seconds()
        self.discriminator_half(carry)
        return middle - start, seconds() - middle

    def peaks(self) -> tuple[float, float]:
        """Take a step; return the peaks of the memory that torch held in its halves, above that before it, in MiB."""
        return peaks(lambda: self.generator_half()[0], self.discriminator_half, self.batch.label.device)


def seconds() -> float:
    """Return what a clock shows: the processor's time for this process, or the time when the accelerator is done."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def peaks(first: Callable[[], Any], then: Callable[[Any], Any], device: torch.device) -> tuple[float, float]:
    """Return the peaks of two functions, each above what was held before the first, in MiB, by torch's own record."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        between = first()
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        then(between)
        return (peak - before) / 2**20, (torch.cuda.max_memory_allocated() - before) / 2**20
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        between = first()
        with torch.profiler.record_function(BOUNDARY):
            then(between)
    events = list(profile.profiler.kineto_results.events())  # type: ignore[union-attr]
    boundary = next(event.start_ns() for event in events if event.name() == BOUNDARY)
    held, highest = 0, [0, 0]
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        half = int(event.start_ns() >= boundary)
        highest[half] = max(highest[half], held)
    return highest[0] / 2**20, highest[1] / 2**20


def variants(module: ModuleType, only_ends: bool = False) -> dict[str, frozenset[str]]:
    """Return the savings of every variant: all, all but one, none."""
    everything = frozenset(module.MEANING)
    each = {} if only_ends else {f"without {name}": everything - {name} for name in module.MEANING}
    return {"all savings": everything, **each, "no savings": frozenset()}


def measure(step: Step, wanted: dict[str, frozenset[str]], repeats: int) -> list[dict[str, Any]]:
    """Return one row per variant, the last one to be compared with."""
    work: dict[str, float] = {}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in wanted}
    for repeat in range(repeats + 1):
        for name, savings in wanted.items():
            step.use(savings)
            if repeat:
                times[name].append(step.times())
            else:  # the first round warms up
                work[name] = step.work()
    rows = []
    for name, savings in wanted.items():
        step.use(savings)
        highest = step.peaks()
        halves = [statistics.median(column) for column in zip(*times[name], strict=True)]
        row = {"variant": name, "generator_s": halves[0], "discriminator_s": halves[1]}
        row |= {"step_s": statistics.median(sum(pair) for pair in times[name]), "tflop": work[name]}
        row |= {"generator_mib": highest[0], "discriminator_mib": highest[1], "peak_mib": max(highest)}
        rows.append(row)
    step.parts.restore()
    for row in rows:
        for ratio, value in (("time_ratio", "step_s"), ("work_ratio", "tflop"), ("memory_ratio", "peak_mib")):
            row[ratio] = row[value] / rows[-1][value]
    return rows


def device_name() -> str:
    """Return what the step computes on."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor()


def report(rows: list[dict[str, Any]], args: argparse.Namespace, method: PlainHalves) -> None:
    """Print the table, and write it with machine, versions and command where asked."""
    print(f"{'':<34}{'generator':>17}{'discriminators':>17}{'step':>41}")
    titles = f"{'s':>8}{'MiB':>9}{'s':>8}{'MiB':>9}{'s':>8}{'ratio':>7}{'TFLOP':>7}{'ratio':>7}{'MiB':>6}{'ratio':>7}"
    print(f"{'variant':<34}{titles}")
    for row in rows:
        print(
            f"{row['variant']:<34}{row['generator_s']:>8.2f}{row['generator_mib']:>9.0f}{row['discriminator_s']:>8.2f}"
            f"{row['discriminator_mib']:>9.0f}{row['step_s']:>8.2f}{row['time_ratio']:>7.2f}{row['tflop']:>7.3f}"
            f"{row['work_ratio']:>7.2f}{row['peak_mib']:>6.0f}{row['memory_ratio']:>7.2f}"
        )
    print("\n".join(f"  {name}: {text}" for name, text in METHODS[args.method].MEANING.items()))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "command": " ".join(["python", *sys.argv]),
            "machine": f"{device_name()}, {torch.get_num_threads()} threads",
            "versions": {"lab2pix": lab2pix.__version__, "torch": torch.__version__},
            "parameters": {
                name: sum(p.numel() for p in player.parameters()) for name, player in method.players.items()
            },
            "seconds": "by the clock" if torch.cuda.is_available() else "of processor time, all threads",
            "peak": "above weights and whatever the step before left, by torch's record of allocations",
            "work": "floating point operations of convolutions and matrix products, in 10^12",
            "rows": rows,
        }
        args.out.write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    """Measure and print."""
    args = arguments()
    method, batch, noise = build(args)
    rows = measure(Step(method, batch, noise), variants(METHODS[args.method], args.only_ends), args.repeats)
    report(rows, args, method)


if __name__ == "__main__":
    main()
