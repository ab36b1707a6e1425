"""Which form of image consistency (Eq. 18) helps: rung C of the unpaired ladder, and rung D with each form.

python benchmarks/consistency.py train --runs runs/consistency --steps 1200
python benchmarks/consistency.py train --runs runs/consistency --only c d-norm:0   # a part, beside another
python benchmarks/consistency.py score --runs runs/consistency --out consistency.json

Every run draws the same held-out label maps. Scores, each a mean over the three seeds of training and its deviation:

- `ppa` and `miou`, whether a U-Net that took no part in any training reads the label map back (`cycle_agreement.py`);
- `frechet_efficientnet_lite0`, the Frechet distance between generated and true held-out scenes in the means over all
  pixels of EfficientNet-Lite0's last stage. These rungs' discriminators are PatchGANs, which see pixels and none of
  these features. Image consistency looks through the same network, but at generated pictures alone: nothing in the
  training pulls its features to those of true scenes;
- `x3_x2` and `x2_x1`, the mean absolute difference of pixels in [-1, 1] between an output, halved, and the next smaller
  one: consistency as no loss here measures it.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from cycle_agreement import AT_ONCE, Readers, add_reader_options, compare_classes, held_out
from ladder_runs import finished, train
from surroundings import surroundings
from torch import Tensor

from lab2pix import Synthesizer
from lab2pix.batch import Batch
from lab2pix.data.transforms import float_to_uint8, uint8_to_float
from lab2pix.errors import Lab2PixError
from lab2pix.methods.features import load_backbone
from lab2pix.nn.backbones import Backbone
from lab2pix.training import latest_checkpoint, read_run_config

SEEDS = (0, 1, 2)
RUNGS = {
    "c": ("unpaired-c-coattention",),
    "d-norm": ("unpaired-d-consistency", "loss.consistency_form=norm"),
    "d-squared": ("unpaired-d-consistency", "loss.consistency_form=squared"),
    "d-mean-square": ("unpaired-d-consistency", "loss.consistency_form=mean-square"),
}
"""Preset and settings of each rung, by the name of its runs."""

SMALL = (
    "data.layout=scenes",
    "data.label_space=scenes",
    "data.size=[64,64]",
    "data.workers=0",
    "generator.width=16",
    "generator.num_upsamples=5",
    "generator.modulation_hidden=24",
    "discriminator.width=16",
    "discriminator.max_width=128",
    "segmenter.width=8",
    "segmenter.blocks=[1,1,1,1]",
    "backbone.discriminator=efficientnet-lite0",
    "backbone.perceptual=efficientnet-lite0",
    "loss.background_ids=null",
    "optimizer.generator_lr=1.0e-3",
    "optimizer.discriminator_lr=1.0e-3",
    "train.batch_size=8",
    "train.epochs=null",
    "train.channels_last=true",
    "train.ema_decay=0.995",
    "checkpoint.every=200",
    "monitor.tensorboard=false",
)
"""What makes the rungs small: twice as wide as the preset `v1-small`."""


@dataclass(frozen=True)
class Run:
    """One training of the ablation.

    Attributes:
        rung: a key of `RUNGS`.
        seed: decides its random numbers; the scenes are the same for all.
    """

    rung: str
    seed: int

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"{self.rung}-{self.seed}"

    def settings(self, steps: int, overrides: Iterable[str]) -> list[str]:
        """Return preset and settings, as `lab2pix train` takes them."""
        preset, *own = RUNGS[self.rung]
        length = [f"train.steps={steps}", f"monitor.sample_every={steps}"]
        return [preset, *SMALL, *own, f"name={self.name}", f"seed={self.seed}", *length, *overrides]


def choose(only: list[str] | None) -> list[Run]:
    """Return the runs, those of one seed together, so that a part that was finished can be compared.

    Args:
        only: rungs, or `RUNG:SEED`; None: all.

    Raises:
        ValueError: there is no such rung or seed.
    """
    runs = [Run(rung, seed) for seed in SEEDS for rung in RUNGS]
    if only is None:
        return runs
    known = set(RUNGS) | {f"{run.rung}:{run.seed}" for run in runs}
    unknown = [word for word in only if word not in known]
    if unknown:
        raise ValueError(f"--only {unknown[0]} is neither one of {', '.join(RUNGS)} nor one with a seed, such as c:0")
    return [run for run in runs if {run.rung, f"{run.rung}:{run.seed}"} & set(only)]


def train_all(args: argparse.Namespace, runs: list[Run]) -> int:
    """Train what has not ended yet, one after the other."""
    for run in runs:
        folder, settings = args.runs / run.name, run.settings(args.steps, args.set)
        if finished(folder, settings):
            print(f"{folder} is finished", flush=True)
            continue
        print(f"training {folder}", flush=True)
        code = train(folder, settings)
        if code:
            print(f"{folder} stopped with exit code {code}; the same command goes on", flush=True)
            return code
    return 0


# --- scores -----------------------------------------------------------------------------------------------------------

Moments: TypeAlias = tuple[Tensor, Tensor]
"""Mean and covariance of features."""


@torch.inference_mode()
def moments(backbone: Backbone, pictures: Tensor) -> Moments:
    """Return mean `[C]` and covariance `[C, C]`, float64, of what a backbone sees in `[N, 3, H, W]` uint8."""
    parts = torch.split(pictures, AT_ONCE)
    features = torch.cat(
        [backbone(backbone.normalize(uint8_to_float(part))).discriminator[-1].mean(dim=(2, 3)) for part in parts]
    ).double()
    return features.mean(0), torch.cov(features.T)


def frechet(one: Moments, other: Moments) -> float:
    """Return the squared Frechet distance of two normal distributions."""
    # The trace of the root of a product of covariances is the sum of its eigenvalues' roots.
    roots = torch.linalg.eigvals(one[1] @ other[1]).real.clamp(min=0).sqrt().sum()
    return float((one[0] - other[0]).square().sum() + one[1].trace() + other[1].trace() - 2 * roots)


def draw_sizes(synthesizer: Synthesizer, labels: Tensor) -> list[Tensor]:
    """Draw label maps `[N, H, W]`, each with noise of its own: X3, X2 and X1 in [-1, 1]."""
    noise = torch.stack([synthesizer.noise(0, place) for place in range(len(labels))])
    parts = [
        synthesizer.generate_pyramid(Batch(label=label), z)
        for label, z in zip(torch.split(labels, AT_ONCE), torch.split(noise, AT_ONCE), strict=True)
    ]
    return [torch.cat(images) for images in zip(*parts, strict=True)]


def score(folder: Path, readers: Readers, backbone: Backbone, count: int) -> dict[str, float]:
    """Return a run's scores, see above."""
    synthesizer = Synthesizer.load(folder, device="cpu")
    labels, true = held_out(synthesizer.config, count)
    images = draw_sizes(synthesizer, labels)
    pictures = float_to_uint8(images[0])
    differences = [float((F.avg_pool2d(larger, 2) - smaller).abs().mean()) for larger, smaller in pairwise(images)]
    return {
        **compare_classes(readers(synthesizer.size)(pictures), labels),
        "frechet_efficientnet_lite0": frechet(moments(backbone, pictures), moments(backbone, true)),
        "x3_x2": differences[0],
        "x2_x1": differences[1],
    }


def summary(scores: dict[str, dict[str, float]], runs: list[Run]) -> dict[str, dict[str, Any]]:
    """Return mean and standard deviation over the seeds (0 for a single one), by rung and score."""
    table: dict[str, dict[str, Any]] = {}
    for rung in dict.fromkeys(run.rung for run in runs):
        seeds = [scores[run.name] for run in runs if run.rung == rung]
        table[rung] = {"seeds": len(seeds)}
        for key in seeds[0]:
            values = [seed[key] for seed in seeds]
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            table[rung][key] = {"mean": statistics.fmean(values), "std": deviation}
    return table


def markdown(table: dict[str, dict[str, Any]]) -> str:
    """Return the summary as a table for a page."""
    keys = [key for key in next(iter(table.values())) if key != "seeds"]
    lines = ["| rung | seeds | " + " | ".join(keys) + " |", "|---" * (len(keys) + 2) + "|"]
    for rung, row in table.items():
        cells = [f"{row[key]['mean']:.4f} ± {row[key]['std']:.4f}" for key in keys]
        lines.append(f"| {rung} | {row['seeds']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def score_all(args: argparse.Namespace, runs: list[Run]) -> int:
    """Score the runs that are there, whole and of one length; write a JSON, print the table."""
    there = [run for run in runs if (args.runs / run.name / "config.yaml").exists()]
    for run in there:
        steps = read_run_config(args.runs / run.name).train.steps
        checkpoint = latest_checkpoint(args.runs / run.name)
        if steps != args.steps or checkpoint is None or checkpoint.name != f"step-{steps:08d}":
            raise ValueError(f"{args.runs / run.name} has not ended at step {args.steps}; train it, or leave it out")
    if not there:
        raise ValueError(f"{args.runs} holds none of the runs; train them first")
    readers, backbone = Readers(args), load_backbone("efficientnet-lite0")
    scores = {}
    for run in there:
        scores[run.name] = score(args.runs / run.name, readers, backbone, args.count)
        print(run.name, ", ".join(f"{key} {value:.4f}" for key, value in scores[run.name].items()), flush=True)
    table = summary(scores, there)
    sizes = {"steps": args.steps, "held_out": args.count, "reader": readers.accuracies()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    trained = {run.name: json.loads((args.runs / run.name / "run.json").read_text())["command"] for run in there}
    record = {**surroundings(), **sizes, "trained": trained, "runs": scores, "rungs": table}
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(markdown(table))
    return 0


# --- command line -----------------------------------------------------------------------------------------------------


def arguments() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    training = verbs.add_parser("train", help="train, or go on; what is finished stays")
    training.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings to change in every run")
    scoring = verbs.add_parser("score", help="score the runs that have ended")
    scoring.add_argument("--out", type=Path, required=True, help="JSON to write")
    scoring.add_argument("--count", type=int, default=512, help="held-out label maps")
    add_reader_options(scoring)
    for verb in (training, scoring):
        verb.add_argument("--runs", type=Path, required=True, help="folder of the runs")
        verb.add_argument("--steps", type=int, default=1200, help="steps of every run")
        verb.add_argument("--only", nargs="+", metavar="RUNG[:SEED]", help=f"some of {', '.join(RUNGS)}")
    return parser


def main() -> int:
    """Do what the command line says."""
    parser = arguments()
    args = parser.parse_args()
    try:
        runs = choose(args.only)
        return train_all(args, runs) if args.verb == "train" else score_all(args, runs)
    except (Lab2PixError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    raise SystemExit(main())
