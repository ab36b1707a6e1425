"""Checks and measurements of every method on a CUDA device, in one command of at most nine minutes.

    python benchmarks/gpu.py --out benchmarks/results/gpu.json

- `check`: a training step of each registered method at a small size, in float32 (its losses are compared with those of
  the same step on the CPU), in bf16, and in fp16 with loss scaling; the next step after a checkpoint is written and
  loaded. `check, compiled` is the method with the fewest weights under `train.compile`.
- `training`: time and memory of a step at published widths, with batches of one and as many as fit: the largest power
  of two up to 32 whose memory, extrapolated from batches of one and two, is within three quarters of the device.
- `generation`: the plain generator in evaluation mode, in float32 without TensorFloat-32 and under bf16 autocast.

Networks have random weights and images are noise, because time and memory do not depend on them. Each preset keeps its
network at both sizes. Parts run in the order of importance; a part that would probably not end in time is skipped. Rows
are printed and written as they come. A part that fails is a row as well, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _environment import environment, in_turns, peak_allocated, peak_resident, seconds, write_json
from _method_checks import NARROW, MethodCheck, build, narrowed, training_batch

from lab2pix.config.schema import RunConfig
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import build_generator, build_sampling, example_inputs, generate_deterministic, method_names
from lab2pix.recipes import load_config

KINDS = ("check", "training", "generation")
SIZES = ((256, 256), (256, 512))
MODELS = {
    "V1": ("v1-cityscapes", []),
    "V2": ("v2-cityscapes", []),
    "SPADE": ("paired-a-spade", []),
    "Pix2Pix": ("pix2pix-cityscapes", []),
    "CycleGAN": ("cyclegan-cityscapes", ["generator.depth=9"]),  # as published for 256x256
}
"""Presets that are measured, and what differs from them."""
PRECISIONS = {"fp32": [], "bf16, channels-last": ["train.precision=bf16", "train.channels_last=true"]}
EXPECTED = {"check": 20.0, "check, compiled": 90.0, "training": 25.0, "generation": 15.0}
"""Seconds that a part is taken to need until one of its kind has been longer."""
MOST = 32


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=510, help="when the command ends at the latest; default: 510")
    parser.add_argument("--parts", nargs="*", choices=KINDS, default=KINDS, help="default: all")
    parser.add_argument("--tiny", action="store_true", help="networks of width 2 to 4 at a quarter of the sides")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu.json")
    return parser.parse_args(given)


class Report:
    """Rows of results, printed and written as they come, within a time limit.

    Args:
        out: the JSON file; it is complete after each row.
        limit: seconds from now; the process ends then, and the part that runs becomes a row that failed.
        scale: factor of the seconds that parts are taken to need.
    """

    def __init__(self, out: Path, limit: float, scale: float = 1.0) -> None:
        self.out, self.running = out, ("", "")
        self.rows: list[dict[str, Any]] = []
        self.header = environment() | {"tf32": torch.backends.cudnn.allow_tf32}
        self.end = time.monotonic() + limit
        self.expected = {kind: scale * expected for kind, expected in EXPECTED.items()}
        self._lock = threading.Lock()
        self._timer = threading.Timer(limit, self._stop)
        self._timer.daemon = True
        self._timer.start()
        print(f"{'':<9}{'':<16}{'':<38}{'step, s':>9}{'images/s':>10}{'MiB':>8}{'total':>8}")

    def run(self, kind: str, name: str, part: Callable[[], Iterable[dict[str, Any]]]) -> None:
        """Run one part and add its rows; an error becomes one, and so does a lack of time."""
        start = time.monotonic()
        if self.end - start < self.expected[kind]:
            reason = f"{self.end - start:.0f} s are left, and it may take {self.expected[kind]:.0f}"
            self.add({"kind": kind, "name": name, "status": "skipped", "reason": reason})
            return
        self.running = kind, name
        try:
            for row in part():
                self.add({"kind": kind, "name": name, "status": "ok"} | row)
        except Exception as error:  # whatever a device or a method trips over; the other parts go on
            traceback.print_exc()
            reason = f"{type(error).__name__}: {str(error).strip()[:500]}"
            self.add({"kind": kind, "name": name, "status": "failed", "reason": reason})
        self.expected[kind] = max(self.expected[kind], 1.2 * (time.monotonic() - start))
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def add(self, row: dict[str, Any]) -> None:
        """Print and write a row."""
        with self._lock:
            self.rows.append(row)
            write_json(self.out, self.header | {"rows": self.rows})
            print(line(row), flush=True)

    def finish(self) -> int:
        """Stop the clock, print how many rows there are of each status, and return the exit status."""
        self._timer.cancel()
        count = {status: sum(row["status"] == status for row in self.rows) for status in ("ok", "failed", "skipped")}
        print(", ".join(f"{number} {status}" for status, number in count.items()) + f": {self.out}", flush=True)
        return int(count["failed"] > 0)

    def _stop(self) -> None:
        kind, name = self.running
        self.add({"kind": kind, "name": name, "status": "failed", "reason": "the time was over before it ended"})
        self.finish()
        os._exit(1)


def line(row: dict[str, Any]) -> str:
    """Return a row of the printed table."""
    what = ", ".join(str(row[key]) for key in ("name", "precision", "batch") if key in row)
    numbers = (("seconds", "9.3f"), ("images_per_s", "10.1f"), ("step_mib", "8.0f"), ("total_mib", "8.0f"))
    text = f"{row['status']:<9}{row['kind']:<16}{what:<38}"
    text += "".join(f"{row[key]:>{form}}" if key in row else " " * int(form.split(".")[0]) for key, form in numbers)
    return (text + "  " + (row.get("reason") or row.get("note") or "")).rstrip()


# --- measurements -----------------------------------------------------------------------------------------------------


def measured_config(name: str, size: tuple[int, int], batch: int, tiny: bool, settings: Sequence[str]) -> RunConfig:
    """Return settings of a measurement."""
    preset, own = MODELS[name]
    config = load_config(preset, [*own, "data.instance_edges=false", "data.resize=null", "train.accumulate=1"])
    config = narrowed(config, NARROW | ({"depth": "4"} if name == "Pix2Pix" else {})) if tiny else config
    return load_config(config, [f"data.size=[{size[0]},{size[1]}]", f"train.batch_size={batch}", *settings])


def memory_of(device: torch.device) -> float:
    """Return the memory of a device, in MiB."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 2**20
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20


def largest_batch(memory: float, held: float, one: float, two: float, most: int = MOST) -> int:
    """Return the largest power of two up to `most` whose step fits three quarters of a memory.

    Args:
        memory: of the device.
        held: by weights and optimizers between steps.
        one: what a step of one image needs above that.
        two: what a step of two images needs above that.
        most: largest batch.
    """
    count = most
    while count > 1 and held + one + max(0.0, two - one) * (count - 1) > 0.75 * memory:
        count //= 2
    return count


def timed(call: Callable[[], Any], device: torch.device, count: int) -> dict[str, Any]:
    """Return the row of a call that makes or trains on so many images: 2 to 10 repetitions, about two seconds."""
    call()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    step_mib = peak_allocated(call, device)
    total_mib = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else peak_resident()
    start = seconds(device)
    call()
    repeats = int(min(10, max(2, 2 / max(1e-3, seconds(device) - start))))
    taken = in_turns({"": call}, repeats, partial(seconds, device))[""]
    return {"seconds": taken, "images_per_s": count / taken, "step_mib": step_mib, "total_mib": total_mib}


def training(
    name: str, size: tuple[int, int], precision: str, device: torch.device, tiny: bool
) -> Iterator[dict[str, Any]]:
    """Yield a row of a step with one image and one with as many as fit."""

    def row(count: int) -> dict[str, Any]:
        config = measured_config(name, size, count, tiny, PRECISIONS[precision])
        steps.config = config
        found = timed(partial(steps, training_batch(steps, count)), device, count)
        return {"precision": precision, "size": size, "batch": count} | found

    steps = build(measured_config(name, size, 1, tiny, PRECISIONS[precision]), device)
    first, second = row(1), row(2)
    yield first
    held = first["total_mib"] - first["step_mib"]
    count = largest_batch(memory_of(device), held, first["step_mib"], second["step_mib"], 4 if tiny else MOST)
    while count > 2:
        try:
            yield row(count)
            return
        except torch.OutOfMemoryError:
            for network in steps.state.method.networks.values():
                network.zero_grad(set_to_none=True)
            count //= 2
        gc.collect()
        torch.cuda.empty_cache()
    yield second


def generation(name: str, size: tuple[int, int], device: torch.device, tiny: bool) -> Iterator[dict[str, Any]]:
    """Yield a row per precision and batch of the plain generator."""
    config = measured_config(name, size, 1, tiny, [])
    space = LabelSpace.load(config.data.label_space)
    torch.manual_seed(0)
    generator = build_generator(config, space).to(device).eval().requires_grad_(False)
    sampling = build_sampling(config, space)
    for precision, context in (("fp32", nullcontext()), ("bf16", torch.autocast(device.type, torch.bfloat16))):
        for count in (1, 2 if tiny else 8):
            batch, noise = example_inputs(sampling, size, count)
            batch, noise = batch.to(device), None if noise is None else noise.to(device)
            with context:
                found = timed(partial(generate_deterministic, generator, sampling, batch, noise), device, count)
            yield {"precision": precision, "size": size, "batch": count} | found


def run_all(report: Report, parts: Sequence[str], device: torch.device, tiny: bool) -> None:
    """Run the parts in the order of importance."""
    checks = {name: MethodCheck(name, device, tiny) for name in method_names()} if "check" in parts else {}
    for name, check in checks.items():
        for precision in ("fp32", "bf16", "fp16"):
            report.run("check", name, partial(check.step, precision))
        report.run("check", name, check.resume)
    for index, full in enumerate(SIZES):
        size = (full[0] // 4, full[1] // 4) if tiny else full
        title = f"{{}} {size[0]}x{size[1]}".format
        for precision in PRECISIONS if "training" in parts else ():
            for name in MODELS:
                report.run("training", title(name), partial(training, name, size, precision, device, tiny))
        for name in MODELS if "generation" in parts else ():
            report.run("generation", title(name), partial(generation, name, size, device, tiny))
        if index == 0 and checks:
            report.run("check, compiled", "fewest weights", partial(compiled, checks))


def compiled(checks: dict[str, MethodCheck]) -> Iterator[dict[str, Any]]:
    """Check the method with the fewest weights under `train.compile`."""
    name = min(checks, key=lambda name: checks[name].size())
    yield from ({"name": name} | row for row in checks[name].compiled())


def main(given: Sequence[str] | None = None) -> int:
    """Check, measure, print and write; return the exit status."""
    args = arguments(given)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("No CUDA here: the checks and measurements of a GPU are skipped.")
        return 0
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # matrix products that repeat their bits
    report = Report(args.out, args.seconds, 0.1 if args.tiny else 1.0)
    run_all(report, args.parts, device, args.tiny)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
