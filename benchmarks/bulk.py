"""Throughput of generating folders of label maps by several processes, and the arithmetic of 10^6 and 10^9 images.

    python benchmarks/bulk.py --out benchmarks/results/bulk.json

The images are those of `lab2pix generate` for procedural label maps, each process on one thread. Label maps are read,
images written as PNG; loading the model is measured apart, with a folder of few label maps. Processes are started by
torchrun. The tables are printed as Markdown: what is measured, and its multiples. Prices and the throughput of a GPU
are assumptions; give yours.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _environment import environment, write_json

from lab2pix.data.scenes.dataset import write_scenes

FEW = 2
"""Label maps of a run that shows the cost of starting."""


@dataclass(frozen=True)
class Assumptions:
    """What is not measured here.

    Attributes:
        core_price: price of a core for an hour.
        gpu_price: price of a GPU for an hour.
        gpu_speedup: images of a GPU in the time of one image of a core.
        storage_price: price of a gigabyte for a month.
        shard_gb: gigabytes in a tar shard.
        days: time in which the images are to be made.
    """

    core_price: float = 0.04
    gpu_price: float = 2.0
    gpu_speedup: float = 100.0
    storage_price: float = 0.02
    shard_gb: float = 1.0
    days: float = 7.0


def run(words: Sequence[str]) -> dict[str, float]:
    """Run a command on one thread per process; return wall-clock and processor seconds, children included."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    before, began = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True, env=environ)
    after = os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall_s": time.perf_counter() - began, "processor_s": processor}


def command(processes: int, model: str, labels: Path, out: Path) -> list[str]:
    """Return the arguments of Python that generate a folder."""
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    generate = ["lab2pix", "generate", model, str(labels), "--out", str(out), "--optimize", "fast"]
    return ["-m", *(launch if processes > 1 else []), *generate]


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return throughput by number of processes, and bytes of files."""
    for name, count in (("few", FEW), ("many", args.count)):
        write_scenes(folder / name, count, (args.size, args.size), 0)
    rows = []
    for processes in args.processes:
        few, again, many = (
            run(command(processes, args.model, folder / name / "labels", folder / f"{name}-{processes}-{turn}"))
            for turn, name in enumerate(("few", "few", "many"))
        )
        few = {key: min(few[key], again[key]) for key in few}  # the first reads the libraries from the disk
        rate = {key: (args.count - FEW) / (many[key] - few[key]) for key in many}
        row = {"processes": processes, "start_s": few["wall_s"], "images_per_s": rate["wall_s"]}
        rows.append({**row, "images_per_core_s": rate["processor_s"]})
    return {
        "rows": rows,
        "image_bytes": _mean_size(folder / f"many-{args.processes[0]}-2"),
        "label_bytes": _mean_size(folder / "many" / "labels"),
    }


def _mean_size(folder: Path) -> float:
    sizes = [file.stat().st_size for file in folder.rglob("*.png")]
    return sum(sizes) / len(sizes)


def multiples(found: Mapping[str, Any], count: float, given: Assumptions) -> dict[str, float]:
    """Return the cost of a number of images, in the units of `ROWS`."""
    per_core_hour = 3600 * found["rows"][0]["images_per_core_s"]
    per_gpu_hour = per_core_hour * given.gpu_speedup
    gigabytes = count * (found["image_bytes"] + found["label_bytes"]) / 1e9
    core_hours, gpu_hours, hours = count / per_core_hour, count / per_gpu_hour, 24 * given.days
    return {
        "core_hours": core_hours,
        "cores": core_hours / hours,
        "core_cost": core_hours * given.core_price,
        "gpu_hours": gpu_hours,
        "gpus": gpu_hours / hours,
        "gpu_cost": gpu_hours * given.gpu_price,
        "gigabytes": gigabytes,
        "shards": gigabytes / given.shard_gb,
        "storage_cost": gigabytes * given.storage_price,
        "files_per_s": 2 * count / (3600 * hours),
        "megabytes_per_s": 1e3 * gigabytes / (3600 * hours),
    }


ROWS = {
    "core_hours": "core-hours",
    "cores": "cores for {days:g} days",
    "core_cost": "price of the cores at {core_price:g} an hour",
    "gpu_hours": "GPU-hours, a GPU being {gpu_speedup:g} cores",
    "gpus": "GPUs for {days:g} days",
    "gpu_cost": "price of the GPUs at {gpu_price:g} an hour",
    "gigabytes": "gigabytes of label maps and images",
    "shards": "tar shards of {shard_gb:g} GB",
    "storage_cost": "price of the storage for a month at {storage_price:g} a GB",
    "files_per_s": "files written a second",
    "megabytes_per_s": "megabytes written a second",
}
"""Titles of the multiples."""


def tables(found: Mapping[str, Any], given: Assumptions) -> str:
    """Return the throughput and its multiples as Markdown."""
    lines = ["| processes | images per second | images per core-hour | start, s |", "|" + "---:|" * 4]
    for row in found["rows"]:
        hourly = f"{3600 * row['images_per_core_s']:,.0f}"
        cells = [f"{row['processes']}", f"{row['images_per_s']:.1f}", hourly, f"{row['start_s']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| | 10^6 images | 10^9 images |", "|---|---:|---:|"]
    million, billion = (multiples(found, count, given) for count in (1e6, 1e9))
    for key, title in ROWS.items():
        cells = [f"{_rounded(own[key])}" for own in (million, billion)]
        lines.append(f"| {title.format(**vars(given))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _rounded(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{float(f'{value:.2g}'):,.0f}"


def main(given: Sequence[str] | None = None) -> int:
    """Measure, or read an earlier measurement, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes")
    parser.add_argument("--count", type=int, default=240, help="label maps")
    parser.add_argument("--size", type=int, default=256, help="height and width")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, help="JSON file of the measurement")
    parser.add_argument("--read", type=Path, metavar="FILE", help="tables of an earlier measurement, with these prices")
    for name, value in vars(Assumptions()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=value, help="assumption")
    args = parser.parse_args(given)
    if args.read:
        found = json.loads(args.read.read_text(encoding="utf-8"))
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = {**environment(), "model": args.model, "size": args.size, "count": args.count}
            found |= measure(args, Path(folder))
    if args.out:
        write_json(args.out, found)
    print(tables(found, Assumptions(**{name: getattr(args, name) for name in vars(Assumptions())})))
    return 0


if __name__ == "__main__":
    sys.exit(main())
