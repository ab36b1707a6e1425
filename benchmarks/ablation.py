"""Both ablations of the paper (5.4) at a small scale: each row trained and scored alike, over three seeds.

python benchmarks/ablation.py time --runs runs/ablation                  # cost of a step of each row
python benchmarks/ablation.py train --runs runs/ablation                 # all runs; the same command resumes
python benchmarks/ablation.py train --runs runs/ablation --part 1/2      # every second run, for a second process
python benchmarks/ablation.py score --runs runs/ablation --out benchmarks/results

There are three tables: unpaired on procedural scenes, paired on procedural scenes, paired on CamVid (in
`$LAB2PIX_DATA/camvid`). A row is the published preset with the settings of `SMALL`, and differs from the row above as
the presets do. All rows of a table train for the same number of steps; `a-time` is row a, trained for the time of the
last row.

Discriminators and losses use EfficientNet-Lite1, the score `frechet_efficientnet_lite0` uses Lite0, and the segmenters
are trained on real pairs only, so no model is scored by a network that it was trained against.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from _environment import environment, write_json
from _runs import (
    SCORES,
    SEEDS,
    BySeed,
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

UNPAIRED = {
    "a": "unpaired-a-spade",
    "b": "unpaired-b-progressive",
    "c": "unpaired-c-coattention",
    "d": "unpaired-d-consistency",
    "e": "unpaired-e-hierarchical",
    "f": "unpaired-f-foreground",
    "g": "unpaired-g-sharpness",
    "h": "unpaired-h-lab2pix-v1",
}
PAIRED = {
    "a": "paired-a-spade",
    "b": "paired-b-hierarchical",
    "c": "paired-c-foreground",
    "d": "paired-d-sharpness",
    "e": "paired-e-lab2pix-v2",
}
WITHOUT_CYCLE = "h-without-cycle"
"""The last unpaired row without cycle segmentation, which does not converge according to the paper (5.4)."""

SMALL = (
    "data.size=[64,64]",
    "data.workers=0",
    "data.instance_edges=false",
    "generator.width=8",
    "generator.num_upsamples=5",
    "generator.modulation_hidden=16",
    "generator.global_encoder.width=8",
    "generator.global_encoder.max_width=64",
    "discriminator.width=8",
    "discriminator.max_width=64",
    "backbone.discriminator=efficientnet-lite1",
    "backbone.perceptual=efficientnet-lite1",
    "loss.background_ids=null",
    "optimizer.generator_lr=1.0e-3",
    "optimizer.discriminator_lr=1.0e-3",
    "train.batch_size=4",
    "train.epochs=null",
    "train.channels_last=true",
    "train.ema_decay=0.99",
    "checkpoint.every=250",
    "checkpoint.keep=1",
    "monitor.tensorboard=false",
)
"""What makes a published preset small enough for a CPU."""
SMALL_V1 = ("segmenter.width=4", "segmenter.blocks=[1,1,1,1]", "loss.cycle_warmup=0.9")
"""Without pairs, λ4 rises over nine tenths of a run. At its full weight from the start, generator and segmenters agree
on an arbitrary look of each class before the discriminators have learned."""
SCENES = (
    "data.format=scenes",
    "data.label_space=scenes",
    "data.scenes.train_count=500",
    "data.scenes.val_count=256",
)
LOWER = ("frechet_efficientnet_lite0",)
"""Scores for which lower is better."""
PAPER: dict[str, dict[str, tuple[float, float, float, float]]] = {
    "unpaired": {
        "a": (0.48, 0.09, 0.08, 133.2),
        "b": (0.33, 0.11, 0.08, 117.7),
        "c": (0.48, 0.15, 0.12, 83.5),
        "d": (0.54, 0.18, 0.14, 83.4),
        "e": (0.64, 0.22, 0.18, 76.0),
        "f": (0.69, 0.23, 0.18, 67.9),
        "g": (0.77, 0.22, 0.18, 65.0),
        "h": (0.76, 0.25, 0.20, 67.4),
    },
    "paired": {
        "a": (0.930, 0.681, 0.592, 57.4),
        "b": (0.934, 0.711, 0.621, 49.2),
        "c": (0.935, 0.727, 0.636, 48.0),
        "d": (0.934, 0.731, 0.639, 46.0),
        "e": (0.936, 0.738, 0.646, 45.5),
    },
}
"""PPA, PCA, C-IoU and FID of Tables 1 and 2, on Cityscapes."""


def compare_rows(scores: BySeed, paper: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Return what each row changes from the one above, here and in the paper.

    A change is `better` or `worse` if its mean over the seeds exceeds its standard deviation, else `open`.
    """
    changes = []
    for above, row in pairwise([row for row in scores if row in paper]):
        found = differences(scores, row, above)
        change: dict[str, Any] = {"from": above, "to": row}
        for place, name in enumerate(SCORES if found else ()):
            theirs = round(paper[row][place] - paper[above][place], 6)
            change[name] = found[name] | {"here": _verdict(found[name]["mean"], found[name]["std"], name)}
            change[name] |= {"paper": theirs, "there": _verdict(theirs, 0.0, name)}
        changes += [change] if found else []
    return changes


def _verdict(change: float | None, spread: float | None, name: str) -> str:
    if change is None or spread is None or abs(change) <= spread:
        return "equal" if spread == 0 else "open"
    return "better" if (change < 0) == (name in LOWER) else "worse"


def _digits(name: str) -> int:
    return 1 if name.startswith("frechet") else 3


def markdown(table: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str], costs: Mapping[str, float]) -> str:
    """Return the table in the paper's form, with the best of each column in bold and the seconds of a step."""
    means = {name: {row: scores[name]["mean"] for row, scores in table.items()} for name in SCORES}
    best = {name: (min if name in LOWER else max)(rows, key=lambda row: rows[row]) for name, rows in means.items()}
    lines = ["| row | preset | PPA | PCA | C-IoU | Fréchet | step (s) |", "|---|---|" + "---:|" * 5]
    for row, scores in table.items():
        texts = [cell(scores[name], _digits(name)) for name in SCORES]
        marked = [f"**{text}**" if best[name] == row else text for name, text in zip(SCORES, texts, strict=True)]
        taken = f"{costs[row]:.2f}" if row in costs else "–"
        lines.append(f"| {row} | {titles[row]} | {' | '.join(marked)} | {taken} |")
    return "\n".join(lines)


def changes_markdown(changes: Sequence[Mapping[str, Any]]) -> str:
    """Return what each row changed here and in the paper."""
    lines = ["| change | PPA | PCA | C-IoU | Fréchet (here), FID (paper) |", "|---|---|---|---|---|"]
    for change in changes:
        cells = [
            f"{cell(change[name], _digits(name), '+')} {change[name]['here']}; "
            f"paper {change[name]['paper']:+.{_digits(name)}f} {change[name]['there']}"
            for name in SCORES
        ]
        lines.append(f"| {change['from']} to {change['to']} | {' | '.join(cells)} |")
    return "\n".join(lines)


# --- the three tables ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """An ablation on one dataset: presets by row, settings of the data, and the number of steps."""

    name: str
    presets: dict[str, str]
    data: tuple[str, ...]
    steps: int

    def run(self, row: str, seed: int, steps: int, more: Sequence[str] = ()) -> Run:
        """Return the run of a row."""
        words = [self.presets[row.removesuffix("-time").removesuffix("-without-cycle")], *SMALL, *self.data]
        words += SMALL_V1 if self.presets is UNPAIRED else ()
        words += ("loss.cycle=0", "loss.cycle_warmup=0") if row == WITHOUT_CYCLE else ()
        return Run(self.name, row, seed, steps, (*words, *more))

    def runs(self, args: argparse.Namespace) -> list[Run]:
        """Return the runs of all rows, those of one seed together; `a-time` once the cost of a step is known."""
        steps = args.steps or self.steps
        lengths = dict.fromkeys([*self.presets, *([WITHOUT_CYCLE] if self.presets is UNPAIRED else [])], steps)
        if args.verb != "time":
            costs = read_costs(args)[self.name]
            lengths["a-time"] = round(steps * costs[list(self.presets)[-1]] / costs["a"] / 10) * 10
        return [self.run(row, seed, count, args.set) for seed in SEEDS for row, count in lengths.items()]


def tables() -> list[Table]:
    """Return all three."""
    return [
        Table("unpaired-scenes", UNPAIRED, SCENES, 1200),
        Table("paired-scenes", PAIRED, SCENES, 800),
        Table("paired-camvid", PAIRED, camvid(), 800),
    ]


def choose(args: argparse.Namespace) -> list[Run]:
    """Return the runs that are asked for, those of one seed together."""
    chosen = [table for table in tables() if args.table in (None, table.name)]
    return sorted(wanted(args, (run for table in chosen for run in table.runs(args))), key=lambda run: run.seed)


def score_tables(args: argparse.Namespace) -> int:
    """Score what has ended; write one JSON and one image per table, and print the tables."""
    runs = choose(args)
    for table in [table for table in tables() if args.table in (None, table.name)]:
        mine = [run for run in runs if run.table == table.name]
        kind, _, data = table.name.partition("-")
        segmenter = segmenter_for(args, data, table.run("a", 0, 1).settings())
        by_seed, folders = score_runs(args, mine, segmenter)
        if not by_seed:
            continue
        costs, changes = read_costs(args)[table.name], compare_rows(by_seed, PAPER[kind])
        titles = {row: table.run(row, 0, 1).words[0] for row in by_seed}
        given = [word.replace(str(camvid_root()), "$LAB2PIX_DATA/camvid") for word in (*SMALL, *table.data, *args.set)]
        protocol = {"label_maps_at_most": args.count, "samples": args.samples, "segmenter": facts_of(segmenter)}
        record = {**environment(), "steps": {run.row: run.steps for run in mine}, "settings": given, "costs": costs}
        record |= {"protocol": protocol, "runs": by_seed, "rows": summary(by_seed), "changes": changes}
        write_json(args.out / f"ablation-{table.name}.json", record)
        sheet(folders, args.out / f"ablation_{table.name}.jpg", truth=data == "scenes")
        print(f"{markdown(summary(by_seed), titles, costs)}\n\n{changes_markdown(changes)}", flush=True)
    return 0


def main(given: Sequence[str] | None = None) -> int:
    """Run a verb."""
    parser, verbs = command_line(__doc__)
    for verb in verbs:
        verb.add_argument("--steps", type=int, help="of every run; default: as the table has")
        verb.add_argument("--table", choices=[table.name for table in tables()], help="one table only")
    args = parser.parse_args(given)
    try:
        if args.verb == "train":
            return train_runs(args, choose(args))
        first = [run for run in choose(args) if run.seed == 0] if args.verb == "time" else []
        return time_runs(args, first) if args.verb == "time" else score_tables(args)
    except (Lab2PixError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    raise SystemExit(main())
