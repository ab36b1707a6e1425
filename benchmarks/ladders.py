"""The paper's two ladders (5.4): every rung trained alike, in the small, and judged alike.

python benchmarks/ladders.py train --runs runs/ladders                       # all; again, to go on
python benchmarks/ladders.py train --runs runs/ladders --part 1/2            # half of it, beside another process
python benchmarks/ladders.py time --runs runs/ladders                        # what a step of each rung costs
python benchmarks/ladders.py train --runs runs/ladders --equal-time          # then: first rungs, as long as the last
python benchmarks/ladders.py score --runs runs/ladders --out benchmarks/results

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
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ladder_costs import seconds_of_steps
from ladder_runs import finished, part_of, peak_memory, train
from ladder_scores import (
    PAPER,
    class_ious,
    compare_steps,
    facts_of,
    judge,
    markdown,
    sheet,
    steps_markdown,
    summary,
)
from surroundings import surroundings, write_json

from lab2pix.config.schema import DataConfig, ScenesConfig
from lab2pix.errors import Lab2PixError
from lab2pix.recipes import load_config
from lab2pix.training.segmenter import SegmenterSettings, train_segmenter

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
    "h-without-cycle": "unpaired-h-lab2pix-v1",
}
WITHOUT_CYCLE = "h-without-cycle"
"""The last unpaired rung less cycle segmentation, without which training does not converge in the paper (5.4)."""
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
    "generator.num_upsamples=5",
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
SCENES = (
    "data.layout=scenes",
    "data.label_space=scenes",
    "data.instance_edges=false",
    "data.scenes.train_count=500",
    "data.scenes.val_count=256",
)
LATE_CYCLE = "loss.cycle_warmup=0.9"
"""Without pairs λ4 rises over nine tenths of every run: at its full weight from the start, generator and segmenters
agree on any looks before the discriminators have shown what is real."""
SEGMENTER_WORLD = 7919
"""Seed of the drawn scenes that the segmenter learns from: another world than the runs'."""
CAMVID_SPACE = "examples/camvid.yaml"


def camvid_root() -> Path:
    """Return where CamVid lies."""
    return Path(os.environ.get("LAB2PIX_DATA", "../shared/data")) / "camvid"


def camvid() -> tuple[str, ...]:
    """Return where CamVid lies and how it is read."""
    return (
        "data.layout=folder",
        f"data.root={camvid_root()}",
        f"data.label_space={CAMVID_SPACE}",
        "data.instance_edges=false",
    )


@dataclass(frozen=True)
class Ladder:
    """One ladder on one data set.

    Attributes:
        name: what its runs' folder is called.
        presets: the rungs' presets by letter, first to last.
        data: settings of the data set.
        steps: how many every rung makes, unless asked otherwise.
    """

    name: str
    presets: dict[str, str]
    data: tuple[str, ...]
    steps: int

    @property
    def ends(self) -> tuple[str, str]:
        """Letters of the first and the last rung."""
        letters = [letter for letter in self.presets if letter != WITHOUT_CYCLE]
        return letters[0], letters[-1]


def ladders() -> list[Ladder]:
    """Return all ladders."""
    return [
        Ladder("unpaired-scenes", UNPAIRED, (*SCENES, LATE_CYCLE), 1200),
        Ladder("paired-scenes", PAIRED, SCENES, 800),
        Ladder("paired-camvid", PAIRED, camvid(), 800),
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
        if self.rung == WITHOUT_CYCLE:
            own += ["loss.cycle=0", "loss.cycle_warmup=0"]
        return [self.ladder.presets[self.rung], *SMALL, *self.ladder.data, *own, *length, *overrides]


def steps_of(args: argparse.Namespace, ladder: Ladder) -> int:
    """Return how many steps the runs of a ladder make."""
    return int(args.steps or ladder.steps)


def choose(args: argparse.Namespace) -> list[Run]:
    """Return the runs that were asked for, those of one seed together, so that what was finished can be compared."""
    chosen = [ladder for ladder in ladders() if args.ladder in (None, ladder.name)]
    if args.equal_time:
        runs = [
            Run(ladder, ladder.ends[0], seed, equal_steps(args, ladder), True) for seed in SEEDS for ladder in chosen
        ]
    else:
        runs = [
            Run(ladder, rung, seed, steps_of(args, ladder))
            for seed in SEEDS
            for ladder in chosen
            for rung in ladder.presets
        ]
    return [run for run in runs if _wanted(args, run)]


def _wanted(args: argparse.Namespace, run: Run) -> bool:
    return not args.only or bool({run.rung, f"{run.rung}:{run.seed}"} & set(args.only))


def read_costs(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return what `time` measured: processor seconds of a step, by ladder and rung.

    Raises:
        ValueError: nothing was measured.
    """
    file = args.runs / "costs.json"
    if not file.exists():
        raise ValueError(f"{file} is missing, so nobody knows what a step costs; run the verb `time` first")
    costs: dict[str, dict[str, float]] = json.loads(file.read_text(encoding="utf-8"))
    return costs


def time_all(args: argparse.Namespace) -> int:
    """Measure what a step of each rung costs, all rungs of a ladder taking turns."""
    file = args.runs / "costs.json"
    found: dict[str, dict[str, float]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for ladder in [ladder for ladder in ladders() if args.ladder in (None, ladder.name)]:
        settings = {rung: Run(ladder, rung, 0, ladder.steps).settings(args.set) for rung in ladder.presets}
        configs = {rung: load_config(words[0], words[1:]) for rung, words in settings.items()}
        found[ladder.name] = seconds_of_steps(configs, args.turns)
        print(ladder.name, {rung: round(seconds, 3) for rung, seconds in found[ladder.name].items()}, flush=True)
    write_json(file, found)
    return 0


def equal_steps(args: argparse.Namespace, ladder: Ladder) -> int:
    """Return how many steps the first rung makes in the time of the last."""
    costs = read_costs(args)[ladder.name]
    first, last = (costs[rung] for rung in ladder.ends)
    return round(steps_of(args, ladder) * last / first / 10) * 10


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


def segmenter_for(args: argparse.Namespace, ladder: Ladder) -> Path:
    """Return the segmenter that judges a ladder; train it on real pairs where it is not there yet."""
    folder = Path(args.runs) / "segmenters" / ladder.name.partition("-")[2]
    if not (folder / "segmenter.json").exists():
        data = dict(item.split("=", 1) for item in ladder.data if item.startswith("data."))
        scenes = ScenesConfig(seed=SEGMENTER_WORLD, val_count=128)
        config = DataConfig(
            layout=data["data.layout"],
            root=data.get("data.root"),
            label_space=data["data.label_space"],
            size=(64, 64),
            scenes=scenes,
        )
        print(train_segmenter(config, folder, SegmenterSettings(steps=args.segmenter_steps)), flush=True)
    return folder


def score_all(args: argparse.Namespace) -> int:
    """Score what is finished; write one JSON, one table and one picture per ladder."""
    for ladder in [ladder for ladder in ladders() if args.ladder in (None, ladder.name)]:
        kinds = dict.fromkeys(ladder.presets, False) | {f"{ladder.ends[0]}-time": True}
        by_seed: dict[str, dict[int, dict[str, float]]] = {}
        folders: dict[str, Path] = {}
        segmenter = segmenter_for(args, ladder)
        for kind, equal_time in kinds.items():
            rung = kind.removesuffix("-time")
            for seed in SEEDS:
                steps = equal_steps(args, ladder) if equal_time else steps_of(args, ladder)
                run = Run(ladder, rung, seed, steps, equal_time)
                if not _wanted(args, run):
                    continue
                folder = args.runs / run.name
                if not finished(folder, run.settings(args.set)):
                    print(f"{folder} is not finished, so it is left out", flush=True)
                    continue
                by_seed.setdefault(kind, {})[seed] = judge(folder, segmenter, samples=args.samples, count=args.count)
                folders.setdefault(kind, folder)
                print(run.name, by_seed[kind][seed], flush=True)
        if by_seed:
            write_ladder(args, ladder, by_seed, folders, segmenter)
    return 0


def write_ladder(
    args: argparse.Namespace,
    ladder: Ladder,
    by_seed: dict[str, dict[int, dict[str, float]]],
    folders: dict[str, Path],
    segmenter: Path,
) -> None:
    """Write a ladder's raw numbers, its tables and its pictures."""
    kind = ladder.name.partition("-")[0]
    first = ladder.ends[0]
    titles = dict(ladder.presets)
    titles[f"{first}-time"] = f"{ladder.presets[first]}, as long as {ladder.ends[1]}"
    if WITHOUT_CYCLE in titles:
        titles[WITHOUT_CYCLE] += ", λ4 = 0"
    seconds = read_costs(args)[ladder.name]
    peaks = {
        rung: max(peak_memory(args.runs / Run(ladder, rung, seed, ladder.steps).name) or 0.0 for seed in by_seed[rung])
        for rung in ladder.presets
        if rung in by_seed
    }
    costs = {rung: {"seconds": seconds[rung], "peak_mib": peak} for rung, peak in peaks.items()}
    ious = {
        kind: {
            seed: class_ious(args.runs / f"{ladder.name}/{kind}-{seed}", samples=args.samples, count=args.count)
            for seed in seeds
        }
        for kind, seeds in by_seed.items()
    }
    table, steps = summary(by_seed), compare_steps(by_seed, PAPER[kind])
    record = {
        **surroundings(),
        "ladder": ladder.name,
        "steps": steps_of(args, ladder),
        "equal_time_steps": equal_steps(args, ladder),
        "settings": [
            item.replace(str(camvid_root()), "$LAB2PIX_DATA/camvid") for item in (*SMALL, *ladder.data, *args.set)
        ],
        "protocol": {"label_maps_at_most": args.count, "samples": args.samples, "segmenter": facts_of(segmenter)},
        "costs": costs,
        "runs": by_seed,
        "class_ious": ious,
        "rungs": table,
        "changes": steps,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / f"ladder-{ladder.name}.json", record)
    text = f"{markdown(table, titles, costs)}\n\n{steps_markdown(steps)}\n"
    (args.out / f"ladder-{ladder.name}.md").write_text(text, encoding="utf-8")
    sheet(folders, args.out / f"ladder-{ladder.name}.jpg", truth="data.layout=scenes" in ladder.data)
    print(text, flush=True)


def arguments() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    training = verbs.add_parser("train", help="train, or go on; what is finished stays")
    training.add_argument(
        "--part", type=part_of, default=(1, 1), metavar="I/N", help="every N-th run, from the I-th on"
    )
    training.add_argument(
        "--equal-time", action="store_true", help="the first rungs, for as long as the last ones took"
    )
    timing = verbs.add_parser("time", help="measure what a step of each rung costs")
    timing.add_argument("--turns", type=int, default=10, help="steps of each rung")
    scoring = verbs.add_parser("score", help="score what is finished")
    scoring.add_argument("--out", type=Path, required=True, help="folder for JSON, tables and pictures")
    scoring.add_argument("--count", type=int, default=256, help="held-out label maps")
    scoring.add_argument("--samples", type=int, default=1, help="pictures per label map")
    scoring.add_argument("--segmenter-steps", type=int, default=1200, help="of the segmenter, where there is none")
    for verb in (training, timing, scoring):
        verb.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings to change in every run")
        verb.add_argument("--runs", type=Path, required=True, help="folder of the runs")
        verb.add_argument("--steps", type=int, help="steps of every run, where not the ladder's own")
        verb.add_argument("--ladder", choices=[ladder.name for ladder in ladders()], help="one ladder only")
    for verb in (training, scoring):
        verb.add_argument("--only", nargs="+", metavar="RUNG[:SEED]", help="some rungs only, such as a or h:0")
    return parser


def main() -> int:
    """Do what the command line says."""
    parser = arguments()
    args = parser.parse_args()
    try:
        return {"train": train_all, "time": time_all, "score": score_all}[args.verb](args)
    except (Lab2PixError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    raise SystemExit(main())
