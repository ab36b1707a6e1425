"""Lab2Pix-V2 and SPADE, each trained for equally long on one core: what a user has after so many minutes.

python benchmarks/time_to_quality.py time --runs runs/quality                       # what a step of each costs
python benchmarks/time_to_quality.py train --runs runs/quality                      # all; again, to go on
python benchmarks/time_to_quality.py train --runs runs/quality --part 1/2           # half, beside another process
python benchmarks/time_to_quality.py score --runs runs/quality --out benchmarks/results

`v2` is the preset `v2-small` as it is; `spade` is the same preset with what makes the first rung of the paired ladder:
SPADE's norms without a global encoder and its two PatchGANs, no foreground, no sharpness, no cycle segmentation (which
`v2-small` has beyond the paper). Widths, batch, rates, moving average and precision are those of `v2-small` for both.
Data: drawn scenes at 64x64, and CamVid at 96x128 (at `$LAB2PIX_DATA/camvid`). How many steps each makes follows from
the processor time of its step, measured in turns.

No model is judged by what it trained against: discriminators and losses look through EfficientNet-Lite1, the distance
through Lite0, and the segmenters learnt from real pairs and took no part in any training.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from ladder_costs import seconds_of_steps
from ladder_runs import finished, part_of, peak_memory, train
from ladder_scores import facts_of, judge, sheet, summary
from ladders import SEEDS, SEGMENTER_WORLD, camvid, camvid_root
from surroundings import surroundings, write_json

from lab2pix.config.schema import DataConfig, ScenesConfig
from lab2pix.errors import Lab2PixError
from lab2pix.recipes import load_config
from lab2pix.training.segmenter import SegmenterSettings, train_segmenter

PRESET = "v2-small"
SPADE = (
    "generator.modulation=spade",
    "discriminator.kind=patch",
    "discriminator.scales=2",
    "loss.foreground_rate=1",
    "loss.sharpness=0",
    "loss.cycle=0",
)
"""What `paired-a-spade` changes of `v2-cityscapes`, less what is the size, and without what `v2-small` adds to V2."""
METHODS = {"spade": SPADE, "v2": ()}
DATA = {
    "scenes": ("data.scenes.val_count=256",),
    "camvid": ("data.size=[96,128]",),
}
"""What is changed for a data set, for both methods; SPADE's two PatchGANs see two sizes as it is."""
COMMON = (
    "backbone.discriminator=efficientnet-lite1",
    "backbone.perceptual=efficientnet-lite1",
    "train.precision=bf16",
    "checkpoint.keep=1",
    "monitor.tensorboard=false",
)
OWN = ("kernel_efficientnet_lite0",)
"""Further scores in the table: the distance that few pictures bias least."""


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        data: name of the data set.
        method: `spade` or `v2`.
        seed: decides its random numbers.
        steps: how many.
    """

    data: str
    method: str
    seed: int
    steps: int

    @property
    def name(self) -> str:
        """Its folder, below that of all runs."""
        return f"{self.data}/{self.method}-{self.seed}"

    def settings(self, changes: list[str]) -> list[str]:
        """Return preset and settings, as `lab2pix train` takes them."""
        own = [f"name={self.name.replace('/', '-')}", f"seed={self.seed}", f"train.steps={self.steps}"]
        monitor = [f"monitor.sample_every={max(1, self.steps // 4)}"]
        return [
            PRESET,
            *COMMON,
            *data_of(self.data),
            *METHODS[self.method],
            *own,
            *monitor,
            *chosen(changes, self.method),
        ]


def data_of(name: str) -> tuple[str, ...]:
    """Return the settings of a data set."""
    return (*(camvid() if name == "camvid" else ()), *DATA[name])


def chosen(changes: list[str], method: str) -> list[str]:
    """Return those of the changed settings that are a method's: `KEY=VALUE` is everybody's, `v2:KEY=VALUE` is V2's."""
    found = []
    for change in changes:
        owner, colon, setting = change.partition(":")
        if colon and owner in METHODS:
            found += [setting] if owner == method else []
        else:
            found.append(change)
    return found


def read_costs(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return what `time` measured: processor seconds of a step, by data set and method.

    Raises:
        ValueError: nothing was measured.
    """
    file = args.runs / "costs.json"
    if not file.exists():
        raise ValueError(f"{file} is missing, so nobody knows what a step costs; run the verb `time` first")
    costs: dict[str, dict[str, float]] = json.loads(file.read_text(encoding="utf-8"))
    return costs


def time_all(args: argparse.Namespace) -> int:
    """Measure what a step costs, the methods taking turns."""
    found = {}
    for data in args.data:
        settings = {method: Run(data, method, 0, 100).settings(args.set) for method in METHODS}
        configs = {method: load_config(words[0], words[1:]) for method, words in settings.items()}
        found[data] = seconds_of_steps(configs, args.turns)
        print(data, {method: round(seconds, 3) for method, seconds in found[data].items()}, flush=True)
    file = args.runs / "costs.json"
    write_json(file, {**(json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}), **found})
    return 0


def choose(args: argparse.Namespace) -> list[Run]:
    """Return the runs that were asked for, those of one seed together."""
    costs = read_costs(args)
    runs = [
        Run(data, method, seed, max(10, round(60 * args.minutes / costs[data][method] / 10) * 10))
        for seed in SEEDS
        for data in args.data
        for method in METHODS
    ]
    wanted = set(args.only or ())
    return [run for run in runs if not wanted or {run.method, f"{run.method}:{run.seed}"} & wanted]


def train_all(args: argparse.Namespace) -> int:
    """Train what has not ended yet, one after the other."""
    part, parts = args.part
    for run in choose(args)[part - 1 :: parts]:
        folder, settings = args.runs / run.name, run.settings(args.set)
        if finished(folder, settings):
            print(f"{folder} is finished", flush=True)
            continue
        print(f"training {folder} for {run.steps} steps", flush=True)
        code = train(folder, settings)
        if code:
            print(f"{folder} stopped with exit code {code}; the same command goes on", flush=True)
            return code
    return 0


def segmenter_for(args: argparse.Namespace, data: str) -> Path:
    """Return the segmenter that judges a data set; train it on real pairs where it is not there yet."""
    folder = Path(args.runs) / "segmenters" / data
    if not (folder / "segmenter.json").exists():
        words = Run(data, "v2", 0, 100).settings([])
        read = load_config(words[0], words[1:]).data
        scenes = ScenesConfig(seed=SEGMENTER_WORLD, val_count=128)
        config = DataConfig.model_validate({**read.model_dump(), "scenes": scenes})
        print(train_segmenter(config, folder, SegmenterSettings(steps=args.segmenter_steps)), flush=True)
    return folder


def score_all(args: argparse.Namespace) -> int:
    """Score what is finished; write one JSON, and for each data set one picture."""
    record: dict[str, object] = {**surroundings(), "minutes": args.minutes, "settings": [*COMMON, *args.set]}
    lines = ["| data | method | steps | PPA | PCA | C-IoU | Fréchet | kernel | step (s) |", f"|{'---|' * 9}"]
    costs = read_costs(args)
    for data in args.data:
        by_seed: dict[str, dict[int, dict[str, float]]] = {}
        folders: dict[str, Path] = {}
        steps: dict[str, int] = {}
        peaks: dict[str, float] = {}
        segmenter = segmenter_for(args, data)
        for run in [run for run in choose(args) if run.data == data]:
            folder = args.runs / run.name
            if not finished(folder, run.settings(args.set)):
                print(f"{folder} is not finished, so it is left out", flush=True)
                continue
            found = judge(folder, segmenter, samples=args.samples, count=args.count, own=OWN)
            by_seed.setdefault(run.method, {})[run.seed] = found
            folders.setdefault(run.method, folder)
            steps[run.method] = run.steps
            peaks[run.method] = max(peaks.get(run.method, 0.0), peak_memory(folder) or 0.0)
            print(run.name, found, flush=True)
        if not by_seed:
            continue
        table = summary(by_seed)
        record[data] = {
            "data": [word.replace(str(camvid_root()), "$LAB2PIX_DATA/camvid") for word in data_of(data)],
            "protocol": {"label_maps_at_most": args.count, "samples": args.samples, "segmenter": facts_of(segmenter)},
            "seconds_of_a_step": costs[data],
            "steps": steps,
            "peak_mib": peaks,
            "runs": by_seed,
            "methods": table,
            "v2_less_spade": differences(by_seed),
        }
        lines += [row(data, method, steps[method], table[method], costs[data][method]) for method in table]
        sheet(folders, args.out / f"time_to_quality_{data}.jpg", truth=data == "scenes")
    write_json(args.out / "time_to_quality.json", record)
    print("\n".join(lines), flush=True)
    return 0


def differences(by_seed: dict[str, dict[int, dict[str, float]]]) -> dict[str, dict[str, float | None]]:
    """Return by how much V2 scores higher than SPADE, seed by seed: mean and deviation."""
    spade, ours = by_seed.get("spade", {}), by_seed.get("v2", {})
    gaps = {seed: {name: ours[seed][name] - spade[seed][name] for name in ours[seed]} for seed in spade if seed in ours}
    return {name: cell for name, cell in summary({"gap": gaps})["gap"].items() if name != "seeds"} if gaps else {}


def row(data: str, method: str, steps: int, scores: dict[str, dict[str, float | None]], seconds: float) -> str:
    """Return a line of the table."""
    cells = []
    for name, digits in (("ppa", 3), ("pca", 3), ("ciou", 3), ("frechet_efficientnet_lite0", 1), (OWN[0], 2)):
        mean, deviation = scores[name]["mean"], scores[name]["std"]
        cells.append(f"{mean:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}"))
    return f"| {data} | {method} | {steps:,} | {' | '.join(cells)} | {seconds:.2f} |"


def arguments() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    training = verbs.add_parser("train", help="train, or go on; what is finished stays")
    training.add_argument("--part", type=part_of, default=(1, 1), metavar="I/N", help="every N-th, from the I-th on")
    timing = verbs.add_parser("time", help="measure what a step of each method costs")
    timing.add_argument("--turns", type=int, default=10, help="steps of each method")
    scoring = verbs.add_parser("score", help="score what is finished")
    scoring.add_argument("--out", type=Path, required=True, help="folder for JSON and pictures")
    scoring.add_argument("--count", type=int, default=256, help="held-out label maps")
    scoring.add_argument("--samples", type=int, default=1, help="pictures per label map")
    scoring.add_argument("--segmenter-steps", type=int, default=1200, help="of the segmenter, where there is none")
    for verb in (training, timing, scoring):
        verb.add_argument("--minutes", type=float, default=18, help="processor time of each training")
        verb.add_argument("--set", nargs="+", default=[], metavar="[METHOD:]KEY=VALUE", help="settings to change")
        verb.add_argument("--runs", type=Path, required=True, help="folder of the runs")
        verb.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA), help="some data sets only")
        verb.add_argument("--only", nargs="+", metavar="METHOD[:SEED]", help="some runs only, such as v2 or spade:0")
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
