"""Which form of image consistency (Eq. 18) helps: rung C of the unpaired ladder, and rung D with each form.

python benchmarks/consistency.py train --runs runs/consistency --steps 1200
python benchmarks/consistency.py train --runs runs/consistency --only c d-norm:0   # a part, beside another
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from lab2pix.configuration import load_config
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
    "generator.doublings=5",
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
"""What makes the paper's rungs as small as the preset `v1-small`."""


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


def finished(folder: Path, settings: list[str]) -> bool:
    """Tell whether a run has ended, with these very settings.

    Raises:
        ValueError: it was made with others.
    """
    if not (folder / "config.yaml").exists():
        return False
    wanted = load_config(settings[0], settings[1:])
    if read_run_config(folder) != wanted:
        raise ValueError(f"{folder} was trained with other settings; choose another --runs, or remove it")
    checkpoint = latest_checkpoint(folder)
    return checkpoint is not None and checkpoint.name == f"step-{wanted.train.steps:08d}"


def train(folder: Path, settings: list[str]) -> int:
    """Train a run, or go on with it, in a process of its own; return that one's exit code."""
    words = [sys.executable, "-m", "lab2pix", "train", *settings, "--out", str(folder)]
    if (folder / "config.yaml").exists():
        words.append("--resume")
    process = subprocess.Popen(words)

    def pass_on(number: int, _: FrameType | None) -> None:
        process.send_signal(number)

    # The training answers a signal with a checkpoint, for which it needs some time.
    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def arguments() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    training = verbs.add_parser("train", help="train, or go on; what is finished stays")
    training.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings to change in every run")
    for verb in (training,):
        verb.add_argument("--runs", type=Path, required=True, help="folder of the runs")
        verb.add_argument("--steps", type=int, default=1200, help="steps of every run")
        verb.add_argument("--only", nargs="+", metavar="RUNG[:SEED]", help=f"some of {', '.join(RUNGS)}")
    return parser


def main() -> int:
    """Do what the command line says."""
    parser = arguments()
    args = parser.parse_args()
    try:
        return train_all(args, choose(args.only))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    raise SystemExit(main())
