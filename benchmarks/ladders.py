"""The paper's two ladders (5.4): every rung trained alike, in the small, and judged alike.

python benchmarks/ladders.py train --runs runs/ladders                       # all; again, to go on
python benchmarks/ladders.py train --runs runs/ladders --part 1/2            # half of it, beside another process
python benchmarks/ladders.py train --runs runs/ladders --equal-time          # then: first rungs, as long as the last
python benchmarks/ladders.py score --runs runs/ladders --segmenters SEGMENTERS --out benchmarks/results

Three ladders are climbed: the unpaired one on drawn scenes, the paired one on drawn scenes, and the paired one on
CamVid (at `$LAB2PIX_DATA/camvid`). A rung is the published preset made small; nothing but what the preset names differs
between two rungs. All rungs of a ladder make equally many steps. As later rungs cost more per step, the first rung
is trained once more for as long as the last one took.

No model is judged by features that it was trained against: discriminators and losses of these runs look through
EfficientNet-Lite1, and the distance `frechet_efficientnet_lite0` through Lite0, which has other weights. The segmenters
learnt from real pairs and took no part in any training.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ladder_runs import finished, seconds_per_step, train

from lab2pix.errors import Lab2PixError

SEEDS = (0, 1, 2)
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

SMALL = (
    "data.size=[64,64]",
    "data.workers=0",
    "generator.width=8",
    "generator.doublings=5",
    "generator.modulation_hidden=16",
    "generator.global_encoder.width=8",
    "generator.global_encoder.max_width=64",
    "discriminator.width=8",
    "discriminator.max_width=64",
    "segmenter.width=4",
    "segmenter.blocks=[1,1,1,1]",
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
"""What makes a published rung small enough for a CPU."""
SCENES = ("data.layout=scenes", "data.label_space=scenes", "data.instance_edges=false")
CAMVID_SPACE = "docs/examples/camvid.yaml"


def camvid() -> tuple[str, ...]:
    """Return where CamVid lies and how it is read."""
    root = Path(os.environ.get("LAB2PIX_DATA", "../shared/data")) / "camvid"
    return ("data.layout=folder", f"data.root={root}", f"data.label_space={CAMVID_SPACE}", "data.instance_edges=false")


@dataclass(frozen=True)
class Ladder:
    """One ladder on one data set.

    Attributes:
        name: what its runs' folder is called.
        presets: the rungs' presets by letter, first to last.
        data: settings of the data set.
    """

    name: str
    presets: dict[str, str]
    data: tuple[str, ...]

    @property
    def ends(self) -> tuple[str, str]:
        """Letters of the first and the last rung."""
        letters = list(self.presets)
        return letters[0], letters[-1]


def ladders() -> list[Ladder]:
    """Return all ladders."""
    return [
        Ladder("unpaired-scenes", UNPAIRED, SCENES),
        Ladder("paired-scenes", PAIRED, SCENES),
        Ladder("paired-camvid", PAIRED, camvid()),
    ]


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        ladder: where it belongs.
        rung: letter of the rung.
        seed: decides its random numbers; the data are the same for all.
        steps: how many.
        equal_time: whether it is the first rung made as long as the last.
    """

    ladder: Ladder
    rung: str
    seed: int
    steps: int
    equal_time: bool = False

    @property
    def name(self) -> str:
        """Its folder, below that of all runs."""
        return f"{self.ladder.name}/{self.rung}{'-time' if self.equal_time else ''}-{self.seed}"

    def settings(self, overrides: Iterable[str]) -> list[str]:
        """Return preset and settings, as `lab2pix train` takes them."""
        own = [f"name={self.name.replace('/', '-')}", f"seed={self.seed}"]
        length = [f"train.steps={self.steps}", f"monitor.sample_every={self.steps}"]
        return [self.ladder.presets[self.rung], *SMALL, *self.ladder.data, *own, *length, *overrides]


def choose(args: argparse.Namespace) -> list[Run]:
    """Return the runs that were asked for, those of one seed together, so that what was finished can be compared."""
    chosen = [ladder for ladder in ladders() if args.ladder in (None, ladder.name)]
    if args.equal_time:
        runs = [
            Run(ladder, ladder.ends[0], seed, equal_steps(args, ladder), True) for seed in SEEDS for ladder in chosen
        ]
    else:
        runs = [Run(ladder, rung, seed, args.steps) for seed in SEEDS for ladder in chosen for rung in ladder.presets]
    if args.only:
        runs = [run for run in runs if {run.rung, f"{run.rung}:{run.seed}"} & set(args.only)]
    return runs


def equal_steps(args: argparse.Namespace, ladder: Ladder) -> int:
    """Return how many steps the first rung makes in the time of the last, by the medians of their runs' logs.

    Raises:
        ValueError: they have not been trained.
    """
    times = []
    for rung in ladder.ends:
        folders = [args.runs / Run(ladder, rung, seed, args.steps).name for seed in SEEDS]
        there = [seconds_per_step(folder) for folder in folders if (folder / "log.jsonl").exists()]
        if not there:
            raise ValueError(
                f"{folders[0]} has not been trained, so its time is unknown; train without --equal-time first"
            )
        times.append(statistics.median(there))
    # To the nearest ten, so that a resumed measurement finds the same number.
    return round(args.steps * times[1] / times[0] / 10) * 10


def train_all(args: argparse.Namespace) -> int:
    """Train what has not ended yet, one after the other."""
    part, parts = args.part
    for run in choose(args)[part - 1 :: parts]:
        folder, settings = args.runs / run.name, run.settings(args.set)
        if finished(folder, settings):
            print(f"{folder} is finished", flush=True)
            continue
        print(f"training {folder}", flush=True)
        code = train(folder, settings)
        if code:
            print(f"{folder} stopped with exit code {code}; the same command goes on", flush=True)
            return code
    return 0


def part_of(text: str) -> tuple[int, int]:
    """Read `1/2`: the first of two parts."""
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"'{text}' is no part such as 1/2")
    return int(part), int(parts)


def arguments() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    training = verbs.add_parser("train", help="train, or go on; what is finished stays")
    training.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings to change in every run")
    training.add_argument(
        "--part", type=part_of, default=(1, 1), metavar="I/N", help="every N-th run, from the I-th on"
    )
    training.add_argument(
        "--equal-time", action="store_true", help="the first rungs, for as long as the last ones took"
    )
    for verb in (training,):
        verb.add_argument("--runs", type=Path, required=True, help="folder of the runs")
        verb.add_argument("--steps", type=int, default=500, help="steps of every run")
        verb.add_argument("--ladder", choices=[ladder.name for ladder in ladders()], help="one ladder only")
        verb.add_argument("--only", nargs="+", metavar="RUNG[:SEED]", help="some rungs only, such as a or h:0")
    return parser


def main() -> int:
    """Do what the command line says."""
    parser = arguments()
    args = parser.parse_args()
    try:
        return train_all(args)
    except (Lab2PixError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    raise SystemExit(main())
