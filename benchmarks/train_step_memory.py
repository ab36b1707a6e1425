"""Memory of a process that trains Lab2Pix-V2, at its highest: weights, optimisers, averages, graphs and libraries.

    python benchmarks/train_step_memory.py --out benchmarks/results/train_step_memory.json

Every row is a process of its own that makes real steps (`lab2pix.training`): forward and backward passes, checks, both
optimisers, the moving average. Two steps at least, since optimisers get their memory in the first. Backbones hold
random weights, label maps and photos are noise: memory does not depend on values. A preset's whole recipe is taken but
for the size, instance edges, and the settings of the row.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _environment import environment, peak_resident, write_json
from train_step_v2 import DOUBLINGS

from lab2pix.batch import Batch
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import build_method
from lab2pix.recipes import load_config
from lab2pix.training.state import build_state
from lab2pix.training.step import build_step_context, training_step
from lab2pix.utils.distributed import DistributedContext

FRUGAL = ("train.gradient_checkpointing=true",)
ONE = ("train.batch_size=1",)
PARTS = ("train.batch_size=4", "train.accumulate=4")
ROWS = {
    "batch 1": ONE,
    "batch 1, checkpointing": (*ONE, *FRUGAL),
    "batch 4": PARTS[:1],
    "batch 4 in 4 parts": PARTS,
    "batch 4 in 4 parts, checkpointing": (*PARTS, *FRUGAL),
    "batch 4 in 4 parts, checkpointing, bf16": (*PARTS, *FRUGAL, "train.precision=bf16"),
}
"""What the settings of a row are."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="v2-cityscapes")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), metavar=("H", "W"))
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE", help="for all rows")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    return parser.parse_args(given)


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Make the steps of a row in this process; return its highest memory in GiB and the processor's time of a step."""
    height, width = args.size
    settings = (f"data.size=[{height},{width}]", f"generator.num_upsamples={DOUBLINGS[0]}", "data.instance_edges=false")
    config = load_config(args.preset, [*settings, "train.ema_decay=0.999", *args.set, *ROWS[args.row]])
    device, team = torch.device("cpu"), DistributedContext(0, 1, torch.device("cpu"))
    torch.manual_seed(0)
    space = LabelSpace.load(config.data.label_space)
    method = build_method(config, space, pretrained=False)
    method.to(device, torch.channels_last if config.train.channels_last else torch.preserve_format)
    state = build_state(method, config, device)
    start = peak_resident()
    engine = build_step_context(config, state, device)
    each = config.train.batch_size // config.train.accumulate
    parts = []
    for _ in range(config.train.accumulate):
        label = torch.randint(0, space.num_classes, (each, height, width))
        image = torch.rand(each, 3, height, width) * 2 - 1
        parts.append((Batch(label=label, image=image), torch.randn(each, config.generator.noise_dim)))
    began = time.process_time()
    for _ in range(args.steps):
        training_step(state, method.networks, parts, engine, team)
    return {
        "parts": [len(batch.label) for batch, _ in parts],
        "before_gib": start / 2**10,
        "peak_gib": peak_resident() / 2**10,
        "step_s": (time.process_time() - began) / args.steps,
    }


def main(given: Sequence[str] | None = None) -> None:
    """Measure every row in its process, and print."""
    args = arguments(given)
    if args.row:
        print(json.dumps(train(args)))
        return
    words = ["--preset", args.preset, "--size", *map(str, args.size), "--steps", str(args.steps), "--set", *args.set]
    print(f"{'row':<42}{'before, GiB':>12}{'peak, GiB':>11}{'step, s':>9}")
    rows: list[dict[str, Any]] = []
    for name in args.rows:
        command = [sys.executable, __file__, *words, "--row", name]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        row = {"row": name, "settings": list(ROWS[name]), **json.loads(output.splitlines()[-1])}
        print(f"{name:<42}{row['before_gib']:>12.2f}{row['peak_gib']:>11.2f}{row['step_s']:>9.2f}", flush=True)
        rows.append(row)
    if args.out:
        record = environment() | {
            "peak": "largest resident memory of the process, libraries and all; before: without any step",
            "seconds": "of processor time, all threads",
            "rows": rows,
        }
        write_json(args.out, record)


if __name__ == "__main__":
    main()
