"""Lab2Pix-V2 and SPADE trained for equal time on one core.

python benchmarks/time_to_quality.py time --runs runs/quality
python benchmarks/time_to_quality.py train --runs runs/quality                  # all runs; the same command resumes
python benchmarks/time_to_quality.py train --runs runs/quality --part 1/2       # half, for a second process
python benchmarks/time_to_quality.py score --runs runs/quality --out benchmarks/results

`v2` is the preset `v2-small`; `spade` is that preset with SPADE's norms, no global encoder, two PatchGANs, and without
foreground enhancement, sharpness enhancement and cycle segmentation. Widths, batch size, learning rates, moving average
and precision are equal. Data: procedural scenes at 64x64, and CamVid (in `$LAB2PIX_DATA/camvid`) at 96x128. The number
of steps follows from the processor time of a step. Scores are independent of the training as in `ablation.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from _environment import environment, write_json
from _runs import (
    SEEDS,
    Run,
    camvid,
    camvid_root,
    cell,
    command_line,
    differences,
    facts_of,
    read_costs,
    score_runs,
    segmenter_for,
    sheet,
    summary,
    time_runs,
    train_runs,
    wanted,
)

from lab2pix.errors import Lab2PixError

PRESET = "v2-small"
SPADE = (
    "generator.modulation=spade",
    "discriminator.kind=patch",
    "discriminator.scales=2",
    "loss.foreground_rate=1",
    "loss.sharpness=0",
    "loss.cycle=0",
)
"""What `paired-a-spade` changes of `v2-cityscapes` besides sizes, and without what `v2-small` adds to V2."""
METHODS: dict[str, tuple[str, ...]] = {"spade": SPADE, "v2": ()}
COMMON = (
    "backbone.discriminator=efficientnet-lite1",
    "backbone.perceptual=efficientnet-lite1",
    "train.precision=bf16",
    "checkpoint.keep=1",
    "monitor.tensorboard=false",
)
KERNEL = "kernel_efficientnet_lite0"
COLUMNS = (("ppa", 3), ("pca", 3), ("ciou", 3), ("frechet_efficientnet_lite0", 1), (KERNEL, 2))


def data_of(name: str) -> tuple[str, ...]:
    """Return the settings of a dataset."""
    if name == "camvid":
        return (*camvid(), "data.instance_edges=false", "data.size=[96,128]")
    return ("data.scenes.val_count=256",)


def settings_of(changes: Sequence[str], method: str) -> list[str]:
    """Return the changed settings of a method: `KEY=VALUE` is for both methods, `v2:KEY=VALUE` for V2 only."""
    found = []
    for change in changes:
        owner, _, setting = change.partition(":")
        found += [change] if owner not in METHODS else [setting] if owner == method else []
    return found


def choose(args: argparse.Namespace) -> list[Run]:
    """Return the runs that are asked for, those of one seed together."""
    costs = {} if args.verb == "time" else read_costs(args)
    runs = []
    for seed in SEEDS:
        for data in args.data:
            for method, own in METHODS.items():
                steps = max(10, round(6 * args.minutes / costs[data][method]) * 10) if costs else 100
                words = (PRESET, *COMMON, *data_of(data), *own, *settings_of(args.set, method))
                runs.append(Run(data, method, seed, steps, words))
    return wanted(args, runs)


def row(data: str, run: Run, scores: Mapping[str, Mapping[str, float | None]], seconds: float) -> str:
    """Return a row of the printed table."""
    cells = [cell(scores[name], digits) for name, digits in COLUMNS]
    return f"| {data} | {run.row} | {run.steps:,} | {' | '.join(cells)} | {seconds:.2f} |"


def score_all(args: argparse.Namespace, runs: Sequence[Run]) -> int:
    """Score what has ended; write one JSON, and one image per dataset."""
    record: dict[str, Any] = {**environment(), "minutes": args.minutes, "settings": [*COMMON, *args.set]}
    lines = ["| data | method | steps | PPA | PCA | C-IoU | Fréchet | kernel | step (s) |", "|---" * 9 + "|"]
    for data in args.data:
        mine = [run for run in runs if run.table == data]
        segmenter = segmenter_for(args, data, [PRESET, *data_of(data)])
        by_seed, folders = score_runs(args, mine, segmenter, (KERNEL,))
        if not by_seed:
            continue
        costs, found = read_costs(args)[data], summary(by_seed)
        first = {run.row: run for run in mine if run.row in found}
        record[data] = {
            "data": [word.replace(str(camvid_root()), "$LAB2PIX_DATA/camvid") for word in data_of(data)],
            "protocol": {"label_maps_at_most": args.count, "samples": args.samples, "segmenter": facts_of(segmenter)},
            "seconds_of_a_step": costs,
            "steps": {method: run.steps for method, run in first.items()},
            "runs": by_seed,
            "methods": found,
            "v2_less_spade": differences(by_seed, "v2", "spade"),
        }
        lines += [row(data, run, found[method], costs[method]) for method, run in first.items()]
        sheet(folders, args.out / f"time_to_quality_{data}.jpg", truth=data == "scenes")
    write_json(args.out / "time_to_quality.json", record)
    print("\n".join(lines), flush=True)
    return 0


def main(given: Sequence[str] | None = None) -> int:
    """Run a verb."""
    parser, verbs = command_line(__doc__)
    for verb in verbs:
        verb.add_argument("--minutes", type=float, default=18, help="processor time of each training")
        verb.add_argument("--data", nargs="+", choices=("scenes", "camvid"), default=["scenes", "camvid"])
    args = parser.parse_args(given)
    try:
        runs = choose(args)
        if args.verb == "time":
            return time_runs(args, [run for run in runs if run.seed == 0])
        return train_runs(args, runs) if args.verb == "train" else score_all(args, runs)
    except (Lab2PixError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    raise SystemExit(main())
