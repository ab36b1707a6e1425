"""How near a training step is to what its convolutions allow.

    python benchmarks/train_step_limit.py --method v2 --threads 2 --out benchmarks/results/train_step_limit_v2.json

Takes one step of each way and notes every convolution and matrix product in it, with shapes,
formats and types. Then each different one of these is timed by itself, and the times are added up as often as it
occurred: no step of the same operations can be faster, whatever surrounds them. Everything else in the step is counted
in bytes that it reads and writes, and what these take at the bandwidth of a large copy is told beside; what lies in
caches is faster than that. A profile says what the step's time goes to. The plain step, which the goals are ratios to,
is timed in the same run. Seconds are the processor's own, all threads.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import train_step
from _environment import environment, in_turns, write_json
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PRODUCTS = {"convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm"}
"""Operations that count as work."""
GROUPS = {
    "convolutions, matrix products": ("convolution", "slow_conv", "::mm", "::addmm", "::bmm", "::baddbmm"),
    "norms": ("batch_norm", "instance_norm", "native_norm"),
    "copies, casts, formats": ("copy_", "contiguous", "::cat", "clone", "fill_", "zero_", "pad"),
    "optimiser-like updates": ("_foreach", "_fused"),
}
"""What the profile's operations are put together as, by parts of their names; the rest is 'elementwise and other'."""


Product = tuple[Any, tuple[Any, ...], tuple[tuple[str, Any], ...]]
"""An operator, its arguments and its named ones, described."""


class Recorder(TorchDispatchMode):
    """Notes what a step calls.

    Attributes:
        products: how often each convolution and matrix product was called, by operator and described arguments.
        others: bytes that all other operations read and wrote.
    """

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[Product] = Counter()
        self.others = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Note an operation, and carry it out."""
        named = kwargs or {}
        result = func(*args, **named)
        if func.overloadpacket.__name__ in PRODUCTS:
            self.products[
                func, _described(args), tuple((name, _described(value)) for name, value in named.items())
            ] += 1
        elif not func.is_view and "empty" not in func.overloadpacket.__name__:
            self.others += _nbytes(args) + _nbytes(result)
        return result


def _nbytes(value: Any) -> int:
    """Return the bytes of all different tensors in a value."""
    return sum({id(leaf): leaf.nbytes for leaf in tree_leaves(value) if isinstance(leaf, Tensor)}.values())


def _described(value: Any) -> Any:
    """Return arguments without their numbers: of tensors shape, strides and type."""
    if isinstance(value, Tensor):
        return ("tensor", tuple(value.shape), value.stride(), value.dtype)
    return tuple(map(_described, value)) if isinstance(value, list | tuple) else value


def _made(value: Any) -> Any:
    """Return arguments as described, of random numbers."""
    if isinstance(value, tuple) and value and value[0] == "tensor":
        _, shape, stride, dtype = value
        return torch.empty_strided(shape, stride, dtype=torch.float32).normal_().to(dtype)
    return [_made(part) for part in value] if isinstance(value, tuple) else value


def median_of(call: Callable[[], Any], repeats: int) -> float:
    """Return the median time of a call, after one to warm up."""
    return in_turns({"": call}, repeats)[""]


def alone(products: Mapping[Product, int], repeats: int) -> float:
    """Return what all noted convolutions and products take, each timed by itself."""
    total = 0.0
    for (func, described, names), count in products.items():
        call = partial(func, *map(_made, described), **{name: _made(value) for name, value in names})
        total += count * median_of(call, repeats)
    return total


def bandwidth(repeats: int) -> float:
    """Return the bytes a second of a large copy, read and written, by all threads."""
    source = torch.ones(2**26)
    target = torch.empty_like(source)
    taken = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        target.copy_(source)
        taken.append(time.perf_counter() - start)
    return 2 * source.nbytes / statistics.median(taken[1:])


def profile(call: Callable[[], Any]) -> dict[str, float]:
    """Return the shares of a call's time that groups of operations take themselves."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        call()
    shares: Counter[str] = Counter()
    for event in seen.key_averages():
        group = next(
            (group for group, parts in GROUPS.items() if any(part in event.key for part in parts)),
            "elementwise and other",
        )
        shares[group] += event.self_cpu_time_total
    return {group: share / shares.total() for group, share in shares.most_common()}


def measure(step: train_step.Step, everything: frozenset[str], repeats: int) -> list[dict[str, Any]]:
    """Return one row for each precision, and before them the plain step."""
    rows: list[dict[str, Any]] = []
    pace = bandwidth(repeats)
    ways = {"plain": train_step.Way(frozenset())}
    ways |= {"fp32": train_step.Way(everything)}
    ways |= {"bf16, channels-last": train_step.Way(everything, **train_step.SETTINGS["bf16, channels-last"])}
    for name, way in ways.items():
        step.switch(way)
        row: dict[str, Any] = {"way": name, "tflop": step.work(), "step_s": median_of(step.times, repeats)}
        with Recorder() as recorder:
            step.times()
        row |= {"products_alone_s": alone(recorder.products, repeats), "other_gib": recorder.others / 2**30}
        row |= {
            "other_at_bandwidth_s": recorder.others / pace * torch.get_num_threads(),
            "bandwidth_gib_s": pace / 2**30,
        }
        rows.append(row | {"profile": profile(step.times)})
    step.parts.restore()
    for row in rows:
        row["times_faster"] = rows[0]["step_s"] / row["step_s"]
        row["at_most"] = rows[0]["step_s"] / row["products_alone_s"]
        row["gflop_per_s_alone"] = 1000 * row["tflop"] / row["products_alone_s"]
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what is printed."""
    lines = [
        f"{'way':<20}{'step, s':>9}{'faster':>8}{'products alone, s':>19}{'at most':>9}{'GFLOP/s':>9}"
        f"{'other, GiB':>12}{'at bandwidth, s':>17}"
    ]
    for row in rows:
        lines.append(
            f"{row['way']:<20}{row['step_s']:>9.2f}{row['times_faster']:>8.2f}{row['products_alone_s']:>19.2f}"
            f"{row['at_most']:>9.2f}{row['gflop_per_s_alone']:>9.0f}{row['other_gib']:>12.1f}"
            f"{row['other_at_bandwidth_s']:>17.2f}"
        )
        lines.append(" " * 20 + ", ".join(f"{group} {share:.0%}" for group, share in row["profile"].items()))
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print; write everything with machine, versions and command where asked."""
    args = train_step.arguments(given)
    torch.set_num_threads(args.threads)
    module = train_step.METHODS[args.method]
    method, batch, noise = train_step.build(args)
    rows = measure(train_step.Step(method, batch, noise), frozenset(module.MEANING), args.repeats)
    print(table(rows))
    if args.out:
        write_json(args.out, environment() | {"seconds": "medians; of processor time, all threads", "rows": rows})


if __name__ == "__main__":
    main()
