"""Time and peak memory of one training step of Lab2Pix-V1 or V2, in every way that settings offer, and plainly.

    python benchmarks/train_step.py --method v2 --width 64 --size 256 256 --out train_step.json

The savings are the product's own step; switching one off puts the plain way in its place, the way that the released
code and SPADE do it. Without --only-ends each saving is also switched off by itself, in float32. All variants run in
one process, turn by turn, so that a drifting machine slows all of them alike. Seconds are the processor's own, so that
other programs' turns do not count; on an accelerator they are the clock's. Backbones hold random weights: neither time
nor memory depends on their values. What a bare convolution reaches, forward and backward, is printed for comparison.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

# Ways that take turns would push each other's kernels out of oneDNN's cache, which a run of one way never does.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")

import torch
import torch.nn.functional as F
import train_step_v1
import train_step_v2
from _environment import environment, processor, write_json
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from train_step_plain import PlainHalves, PlainParts

from lab2pix.batch import Batch
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import StepContext
from lab2pix.methods.base import PRECISIONS, Losses
from lab2pix.methods.gan import Carry
from lab2pix.recipes import load_config
from lab2pix.training.compile import compile_networks, eager_mode

METHODS: dict[str, ModuleType] = {"v1": train_step_v1, "v2": train_step_v2}
ENGINE = StepContext(progress=0.5)
BOUNDARY = "discriminators' half"


@dataclass(frozen=True)
class Way:
    """How a step runs: which savings it has, and what the settings of `train` offer."""

    savings: frozenset[str]
    precision: str = "fp32"
    channels_last: bool = False
    compiled: bool = False


SETTINGS: dict[str, dict[str, Any]] = {
    "channels-last": {"channels_last": True},
    "compiled": {"compiled": True},
    "bf16": {"precision": "bf16"},
    "bf16, channels-last": {"precision": "bf16", "channels_last": True},
    "bf16, compiled": {"precision": "bf16", "compiled": True},
}
"""What is measured beside the step with all savings as it is by default."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=METHODS, default="v2")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--segmenter-width", type=int, default=32, help="of V1's ICNets")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--backbones", nargs=2, metavar=("DISCRIMINATOR", "LOSS"), help="default: as the presets have")
    parser.add_argument("--only-ends", action="store_true", help="measure all savings and none, not each by itself")
    parser.add_argument("--settings", nargs="*", choices=SETTINGS, default=list(SETTINGS), help="that are measured")
    parser.add_argument("--out", type=Path)
    return parser.parse_args(given)


def build(args: argparse.Namespace, device: torch.device | None = None) -> tuple[PlainHalves, Batch, Tensor]:
    """Return the step under test with random weights, and something to train on, on the CPU unless told otherwise."""
    module, (height, width) = METHODS[args.method], args.size
    fitting = [count for count in module.DOUBLINGS if min(height, width) >> count >= 2]
    if not fitting:
        sys.exit(f"--size {height} {width} is too small for --method {args.method}; take at least 64 64.")
    overrides = [
        f"data.size=[{height},{width}]",
        f"generator.num_upsamples={fitting[0]}",
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
    device = device or torch.device("cpu")
    method.to(device)
    blocks = torch.randint(0, 35, (args.batch, height // 16, width // 16))
    label = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)
    batch = Batch(label=label, image=torch.rand(args.batch, 3, height, width) * 2 - 1).to(device)
    return method, batch, torch.randn(args.batch, method.config.generator.noise_dim, device=device)


class Step:
    """A step in two halves, in the way that was last asked for."""

    def __init__(self, method: PlainHalves, batch: Batch, noise: Tensor) -> None:
        self.method, self.batch, self.noise = method, batch, noise
        self.device = batch.label.device
        self.parts = PlainParts(method)
        self.eyes = {"fp32": method.feature_extractors}
        self.way = Way(frozenset())
        self.has_programs = False

    def use(self, savings: frozenset[str]) -> None:
        """Switch savings, and drop the gradients of the step before."""
        self.switch(Way(savings))

    def switch(self, way: Way) -> None:
        """Switch to another way, and drop the gradients of the step before."""
        if way.precision not in self.eyes:
            self.eyes[way.precision] = copy.deepcopy(self.eyes["fp32"])
            self.eyes[way.precision].lower(PRECISIONS[way.precision])
        if way.compiled and not self.has_programs:
            compile_networks(self.method)
            self.has_programs = True
        self.parts.eyes = self.eyes[way.precision]
        self.parts.use(way.savings)
        for network in (*self.method.networks.values(), self.parts.eyes):
            network.zero_grad(set_to_none=True)
            network.to(memory_format=torch.channels_last if way.channels_last else torch.contiguous_format)
        self.way = way

    def engine(self) -> StepContext:
        """Return how passes run in this way."""
        if self.way.precision == "fp32":
            return ENGINE
        low = PRECISIONS[self.way.precision]
        return replace(ENGINE, autocast=lambda: torch.autocast(self.device.type, dtype=low))

    def programs(self) -> AbstractContextManager[object]:
        """Let compiled parts run as programs in a way that is compiled, and only there."""
        return eager_mode(self.has_programs and not self.way.compiled)

    def generator_half(self) -> tuple[Carry, Losses]:
        """Fill the generator's gradients, and V1's segmenters'."""
        player = self.method.networks["generator"]
        player.zero_grad(set_to_none=True)
        return self.method.generator_backward(player, self.batch, self.noise, self.engine())

    def discriminator_half(self, carry: Carry) -> Losses:
        """Fill the discriminators' gradients."""
        return self.method.discriminator_backward(self.method.discriminator, carry, self.engine())

    def work(self) -> float:
        """Take a step; return its floating point operations in convolutions and matrix products, in 10^12.

        Programs do the same ones, but the counter does not see into them.
        """
        with eager_mode(self.has_programs), FlopCounterMode(display=False) as counter:
            self.discriminator_half(self.generator_half()[0])
        return counter.get_total_flops() / 1e12

    def times(self) -> tuple[float, float]:
        """Take a step; return the seconds of its halves."""
        with self.programs():
            start = seconds(self.device)
            carry, _ = self.generator_half()
            middle = seconds(self.device)
            self.discriminator_half(carry)
            return middle - start, seconds(self.device) - middle

    def peaks(self) -> tuple[float, float]:
        """Take a step; return the peaks of the memory that torch held in its halves, above that before it, in MiB."""
        with self.programs():
            return peaks(lambda: self.generator_half()[0], self.discriminator_half, self.device)


def seconds(device: torch.device) -> float:
    """Return what a clock shows: the processor's time for this process, or the time when the accelerator is done."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
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


def ways(module: ModuleType, args: argparse.Namespace) -> dict[str, Way]:
    """Return what is measured: all savings, also with each of the settings, then all but one, none."""
    plain = {name: Way(savings) for name, savings in variants(module, args.only_ends).items()}
    whole = plain.pop("all savings")
    return {"all savings": whole, **{name: replace(whole, **SETTINGS[name]) for name in args.settings}, **plain}


def measure(step: Step, wanted: Mapping[str, Way], repeats: int) -> list[dict[str, Any]]:
    """Return one row per way, the last one to be compared with."""
    work: dict[str, float] = {}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in wanted}
    for repeat in range(repeats + 1):
        for name, way in wanted.items():
            step.switch(way)
            if repeat:
                times[name].append(step.times())
                continue
            work[name] = step.work()  # the first round warms up
            if way.compiled:
                step.times()
    rows = []
    for name, way in wanted.items():
        step.switch(way)
        highest = step.peaks()
        halves = [statistics.median(column) for column in zip(*times[name], strict=True)]
        row: dict[str, Any] = {"variant": name, "device": str(step.device), "generator_s": halves[0]}
        row |= {"discriminator_s": halves[1], "step_s": statistics.median(sum(pair) for pair in times[name])}
        row |= {"all_step_s": [sum(pair) for pair in times[name]], "tflop": work[name]}
        row |= {"generator_mib": highest[0], "discriminator_mib": highest[1], "peak_mib": max(highest)}
        rows.append(row)
    step.parts.restore()
    for row in rows:
        row["gflop_per_s"] = 1000 * row["tflop"] / row["step_s"]
        for ratio, value in (("time_ratio", "step_s"), ("work_ratio", "tflop"), ("memory_ratio", "peak_mib")):
            row[ratio] = row[value] / rows[-1][value]
    return rows


def bare_convolutions(args: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Return what 3x3 convolutions of the step's shapes reach by themselves, forward and backward."""
    found = []
    for shrunk, multiple in ((1, 1), (2, 2), (4, 4), (8, 8), (16, 16)):
        channels, height, width = args.width * multiple, args.size[0] // shrunk, args.size[1] // shrunk
        for precision in ("fp32", "bf16"):
            shape, dtype = (args.batch, channels, height, width), PRECISIONS[precision]
            x = torch.randn(shape, device=device, dtype=dtype, requires_grad=True)
            weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype, requires_grad=True)
            taken = []
            for _ in range(4):
                start = seconds(device)
                torch.autograd.grad(F.conv2d(x, weight, padding=1), (x, weight), torch.ones_like(x))
                taken.append(seconds(device) - start)
            gflop = 3 * 2 * 9 * channels**2 * args.batch * height * width / 1e9
            row = {"device": str(device), "shape": shape, "precision": precision}
            found.append(row | {"gflop_per_s": gflop / statistics.median(taken[1:])})
    return found


def table(rows: Sequence[Mapping[str, Any]], bare: Sequence[Mapping[str, Any]]) -> str:
    """Return what is printed."""
    titles = f"{'s':>8}{'MiB':>9}{'s':>8}{'MiB':>9}{'s':>8}{'ratio':>7}{'TFLOP':>7}{'ratio':>7}{'GFLOP/s':>8}{'MiB':>6}"
    lines = [f"{'':<34}{'generator':>17}{'discriminators':>17}{'step':>43}", f"{'variant':<34}{titles}{'ratio':>7}"]
    for row in rows:
        lines.append(
            f"{row['variant']:<34}{row['generator_s']:>8.2f}{row['generator_mib']:>9.0f}{row['discriminator_s']:>8.2f}"
            f"{row['discriminator_mib']:>9.0f}{row['step_s']:>8.2f}{row['time_ratio']:>7.2f}{row['tflop']:>7.3f}"
            f"{row['work_ratio']:>7.2f}{row['gflop_per_s']:>8.0f}{row['peak_mib']:>6.0f}{row['memory_ratio']:>7.2f}"
        )
    for row in bare:
        shape = "x".join(map(str, row["shape"]))
        lines.append(f"a bare 3x3 convolution, {shape}, {row['precision']}: {row['gflop_per_s']:.0f} GFLOP/s")
    return "\n".join(lines)


def device_name(device: torch.device) -> str:
    """Return what the step computes on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print; write everything with machine, versions and command where asked."""
    args = arguments(given)
    torch.set_num_threads(args.threads)
    module = METHODS[args.method]
    rows: list[dict[str, Any]] = []
    bare: list[dict[str, Any]] = []
    parameters: dict[str, int] = {}
    for device in [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]:
        method, batch, noise = build(args, device)
        parameters = {name: sum(p.numel() for p in player.parameters()) for name, player in method.networks.items()}
        here = measure(Step(method, batch, noise), ways(module, args), args.repeats)
        convolutions = bare_convolutions(args, device)
        print(f"{device_name(device)}\n{table(here, convolutions)}", flush=True)
        rows += here
        bare += convolutions
    if not torch.cuda.is_available():
        print("No CUDA here: the rows of a GPU are skipped.")
    print("\n".join(f"  {name}: {text}" for name, text in module.MEANING.items()))
    if args.out:
        record = environment() | {
            "parameters": parameters,
            "seconds": "medians; of processor time, all threads; on cuda by the clock",
            "peak": "above weights and whatever the step before left, by torch's record of allocations",
            "work": "floating point operations of convolutions and matrix products, in 10^12",
            "bare_convolutions": bare,
            "rows": rows,
        }
        write_json(args.out, record)


if __name__ == "__main__":
    main()
