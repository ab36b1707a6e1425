"""Time, work and memory of one training step.

    python benchmarks/train_step.py --preset v2-cityscapes --plain --out benchmarks/results/train_step.json

A step is the product's own: all phases, checks, optimizers and the moving average. All rows take turns in one process,
so that a drifting machine slows all of them alike; `--plain` adds the step of networks that are not accelerated, which
the ratios refer to. Seconds are processor time, or wall-clock time on CUDA. Backbones have random weights and images
are noise, because neither time nor memory depends on values.

`--memory` measures the largest resident memory of a process per row instead, with libraries and optimizers.
`--roofline` compares a step with its convolutions and matrix products alone, each timed by itself, and lists what a
profiler attributes the time to.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _environment import TrainingSteps, environment, in_turns, peak_allocated, peak_resident, seconds, write_json
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lab2pix.batch import Batch
from lab2pix.config.schema import RunConfig
from lab2pix.recipes import load_config
from lab2pix.training.compile import eager_mode
from lab2pix.utils.distributed import DistributedContext

LAST, LOW, COMPILED = "train.channels_last=true", "train.precision=bf16", "train.compile=true"
FEW, PARTS = "train.gradient_checkpointing=true", "train.accumulate=4"
ROWS: dict[str, list[str]] = {
    "fp32": [],
    "fp32, channels-last": [LAST],
    "fp32, compiled": [COMPILED],
    "bf16": [LOW],
    "bf16, channels-last": [LOW, LAST],
    "bf16, compiled": [LOW, COMPILED],
}
"""Settings of each row."""
MEMORY_ROWS: dict[str, list[str]] = {
    "batch 1": [],
    "batch 1, checkpointing": [FEW],
    "batch 4": ["train.batch_size=4"],
    "batch 4 in 4 parts": ["train.batch_size=4", PARTS],
    "batch 4 in 4 parts, checkpointing": ["train.batch_size=4", PARTS, FEW],
    "batch 4 in 4 parts, checkpointing, bf16": ["train.batch_size=4", PARTS, FEW, LOW],
}
PLAIN = "fp32, plain"
PRODUCTS = {"convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm"}
"""Operators that the roofline times by themselves."""
GROUPS = {
    "convolutions, matrix products": ("convolution", "slow_conv", "::mm", "::addmm", "::bmm", "::baddbmm"),
    "norms": ("batch_norm", "instance_norm", "native_norm"),
    "copies, casts, formats": ("copy_", "contiguous", "::cat", "clone", "fill_", "zero_", "pad"),
    "optimizers": ("_foreach", "_fused"),
}
"""Groups of operators in a profile, by parts of their names."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="v2-cityscapes")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="default: as in the preset")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE", help="for all rows")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=["fp32", "bf16, channels-last"])
    parser.add_argument("--plain", action="store_true", help="add the step of networks that are not accelerated")
    parser.add_argument("--memory", action="store_true", help="measure memory, in a process per row")
    parser.add_argument("--roofline", action="store_true", help="compare with convolutions and matrix products alone")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    parser.add_argument("--row", choices=MEMORY_ROWS, help=argparse.SUPPRESS)
    return parser.parse_args(given)


def config_of(args: argparse.Namespace, settings: Sequence[str]) -> RunConfig:
    """Return a preset's settings with those of a row."""
    size = [] if args.size is None else [f"data.size=[{args.size[0]},{args.size[1]}]"]
    batch = [f"train.batch_size={args.batch}", "train.accumulate=1", "data.instance_edges=false"]
    return load_config(args.preset, [*size, *batch, *args.set, *settings])


def batch_of(config: RunConfig, classes: int) -> Batch:
    """Return label maps of squares and images of noise."""
    random = torch.Generator().manual_seed(0)
    (height, width), count = config.data.size, config.train.batch_size
    blocks = torch.randint(0, classes, (count, height // 16, width // 16), generator=random)
    label = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)
    return Batch(label=label, image=torch.rand(count, 3, height, width, generator=random) * 2 - 1)


def build(args: argparse.Namespace, device: torch.device, settings: Sequence[str], plain: bool = False) -> Any:
    """Return a function that makes one training step."""
    config = config_of(args, settings)
    steps = TrainingSteps(config, DistributedContext(0, 1, device), pretrained=False, plain=plain)
    return partial(steps, batch_of(config, steps.label_space.num_classes).to(device))


def flops(step: Any, compiled: bool) -> float:
    """Return the floating point operations of a step in convolutions and matrix products, in 10^12."""
    with eager_mode(compiled), FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 1e12


def measure(args: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Return a record per row: seconds, work and peak memory of torch's allocations."""
    calls = {name: build(args, device, ROWS[name]) for name in args.rows}
    if args.plain:
        calls[PLAIN] = build(args, device, [], plain=True)
    work = {name: flops(call, "compiled" in name) for name, call in calls.items()}
    taken = in_turns(calls, args.repeats, partial(seconds, device))
    records: list[dict[str, Any]] = []
    for name, call in calls.items():
        record = {"row": name, "device": str(device), "seconds": taken[name], "tflop": work[name]}
        records.append(record | {"peak_mib": peak_allocated(call, device)})
    for record in records:
        record["gflop_per_s"] = 1000 * record["tflop"] / record["seconds"]
        if args.plain:
            record |= {f"{key}_ratio": record[key] / records[-1][key] for key in ("seconds", "tflop", "peak_mib")}
    return records


# --- memory -----------------------------------------------------------------------------------------------------------


def memory(args: argparse.Namespace, words: Sequence[str]) -> list[dict[str, Any]]:
    """Return a record per row of `MEMORY_ROWS`, each from a process of its own."""
    records = []
    for name in MEMORY_ROWS:
        command = [sys.executable, __file__, *words, "--row", name]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        records.append({"row": name, "device": "cpu"} | json.loads(output.splitlines()[-1]))
    return records


def memory_of(args: argparse.Namespace) -> dict[str, float]:
    """Return the largest resident memory of this process before and after two steps, in GiB."""
    step = build(args, torch.device("cpu"), [*MEMORY_ROWS[args.row], "train.ema_decay=0.999"])
    before = peak_resident()
    for _ in range(2):  # optimizers allocate their state in the first
        step()
    return {"before_gib": before / 2**10, "peak_gib": peak_resident() / 2**10}


# --- roofline ---------------------------------------------------------------------------------------------------------


class Recorder(TorchDispatchMode):
    """Counts the calls of convolutions and matrix products, by operator and by shapes, strides and types."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[Any] = Counter()
        self.others = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Count an operator and the bytes that the others read and write, and run it."""
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in PRODUCTS:
            self.products[func, _described(args), tuple((kwargs or {}).items())] += 1
        elif not func.is_view and "empty" not in func.overloadpacket.__name__:
            tensors = [leaf for leaf in tree_leaves((args, result)) if isinstance(leaf, Tensor)]
            self.others += sum({id(tensor): tensor.nbytes for tensor in tensors}.values())
        return result


def _described(value: Any) -> Any:
    if isinstance(value, Tensor):
        return ("tensor", tuple(value.shape), value.stride(), value.dtype)
    return tuple(map(_described, value)) if isinstance(value, list | tuple) else value


def _made(value: Any) -> Any:
    if isinstance(value, tuple) and value and value[0] == "tensor":
        _, shape, stride, dtype = value
        return torch.empty_strided(shape, stride, dtype=torch.float32).normal_().to(dtype)
    return [_made(part) for part in value] if isinstance(value, tuple) else value


def roofline(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a record per row: a step, its products alone, the bytes of everything else, and a profile."""
    cpu, records = torch.device("cpu"), []
    for name in args.rows:
        step = build(args, cpu, ROWS[name])
        step()
        with Recorder() as recorder:
            step()
        alone = 0.0
        for (func, given, named), count in recorder.products.items():
            call = partial(func, *map(_made, given), **{key: _made(_described(value)) for key, value in named})
            alone += count * in_turns({"": call}, args.repeats)[""]
        record = {"row": name, "device": "cpu", "seconds": in_turns({"": step}, args.repeats)[""]}
        record |= {"products_alone_s": alone, "other_gib": recorder.others / 2**30, "profile": profile(step)}
        records.append(record)
    return records


def profile(step: Any) -> dict[str, float]:
    """Return the share of a step's time per group of operators."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        step()
    shares: Counter[str] = Counter()
    for event in found.key_averages():
        groups = (group for group, parts in GROUPS.items() if any(part in event.key for part in parts))
        shares[next(groups, "elementwise and other")] += event.self_cpu_time_total
    return {group: share / shares.total() for group, share in shares.most_common()}


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the records as text, a line each."""
    columns = [key for key in records[0] if key not in ("row", "device", "profile")]
    lines = [" " * 42 + "".join(f"{column:>19}" for column in columns)]
    for record in records:
        lines.append(f"{record['row']:<42}" + "".join(f"{record[column]:>19.3f}" for column in columns))
        if "profile" in record:
            lines.append("  " + ", ".join(f"{group} {share:.0%}" for group, share in record["profile"].items()))
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print; write a JSON if asked to."""
    args = arguments(given)
    torch.set_num_threads(args.threads)
    if args.row:
        print(json.dumps(memory_of(args)))
        return
    if args.memory:
        records = memory(args, sys.argv[1:] if given is None else list(given))
    elif args.roofline:
        records = roofline(args)
    else:
        records = measure(args, torch.device("cpu"))
        if torch.cuda.is_available():
            records += measure(args, torch.device("cuda"))
        else:
            print("No CUDA here: the rows of a GPU are skipped.")
    print(table(records))
    if args.out:
        settings = {"preset": args.preset, "size": args.size, "batch": args.batch, "set": args.set}
        write_json(args.out, environment() | settings | {"repeats": args.repeats, "rows": records})


if __name__ == "__main__":
    main()
