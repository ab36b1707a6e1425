"""Runs of a comparison: trained one after the other in processes of their own, then scored alike."""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import torch
from _environment import TrainingSteps, in_turns, open_dataset, write_json
from PIL import Image, ImageDraw, ImageFont

from lab2pix import Synthesizer
from lab2pix.config.schema import DataConfig, ScenesConfig
from lab2pix.data.samples import collate
from lab2pix.data.transforms import float_to_uint8, to_pil
from lab2pix.evaluation.report import read_report
from lab2pix.evaluation.segmenters import WEIGHTS_FILE
from lab2pix.recipes import load_config
from lab2pix.training import latest_checkpoint, read_run_config
from lab2pix.training.segmenter import SegmenterSettings, train_segmenter
from lab2pix.utils.pretrained import file_sha256

SEEDS = (0, 1, 2)
SEGMENTER_WORLD = 7919
"""Seed of the scenes that the segmenter is trained on; the runs use another one."""

SCORES = ("ppa", "pca", "ciou", "frechet_efficientnet_lite0")

Scores: TypeAlias = dict[str, float]
BySeed: TypeAlias = dict[str, dict[int, Scores]]
"""Scores of a table, by row and seed."""


def camvid_root() -> Path:
    """Return the folder of CamVid."""
    return Path(os.environ.get("LAB2PIX_DATA", "../shared/data")) / "camvid"


def camvid() -> tuple[str, ...]:
    """Return the settings that read CamVid."""
    return "data.format=folder", f"data.root={camvid_root()}", "data.label_space=camvid"


# --- runs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        table: name of the table, and of a folder in `--runs`.
        row: name of its row.
        seed: of its random numbers; the data are the same for all.
        steps: how many.
        words: preset and settings.
    """

    table: str
    row: str
    seed: int
    steps: int
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its folder in `--runs`."""
        return f"{self.table}/{self.row}-{self.seed}"

    def settings(self) -> list[str]:
        """Return preset and settings, as `lab2pix train` takes them."""
        own = [f"name={self.name.replace('/', '-')}", f"seed={self.seed}", f"train.steps={self.steps}"]
        return [*self.words, *own, f"monitor.sample_every={self.steps}"]


def finished(folder: Path, settings: Sequence[str]) -> bool:
    """Tell whether a run has ended, with exactly these settings.

    Raises:
        ValueError: the run has other settings.
    """
    if not (folder / "config.yaml").exists():
        return False
    wanted = load_config(settings[0], list(settings[1:]))
    if read_run_config(folder) != wanted:
        raise ValueError(f"{folder} was trained with other settings; choose another --runs, or remove it")
    checkpoint = latest_checkpoint(folder)
    return checkpoint is not None and checkpoint.name == f"step-{wanted.train.steps:08d}"


def training_command(folder: Path, settings: Sequence[str]) -> list[str]:
    """Return the command that trains or resumes a run."""
    words = [sys.executable, "-m", "lab2pix", "train", *settings, "--out", str(folder)]
    return [*words, "--resume"] if (folder / "config.yaml").exists() else words


def train(folder: Path, settings: Sequence[str]) -> int:
    """Train or resume a run in a process of its own, and return its exit code."""
    process = subprocess.Popen(training_command(folder, settings))

    def forward(number: int, _: FrameType | None) -> None:
        process.send_signal(number)

    # The training writes a checkpoint when it gets a signal, which takes a while.
    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train_runs(args: argparse.Namespace, runs: Sequence[Run]) -> int:
    """Train the runs that have not ended, one after the other."""
    part, parts = args.part
    for run in runs[part - 1 :: parts]:
        folder, settings = args.runs / run.name, run.settings()
        if finished(folder, settings):
            print(f"{folder} is finished", flush=True)
            continue
        print(f"training {folder} for {run.steps} steps", flush=True)
        code = train(folder, settings)
        if code:
            print(f"{folder} stopped with exit code {code}; the same command resumes it", flush=True)
            return code
    return 0


def seconds_of_steps(runs: Sequence[Run], repeats: int) -> dict[str, float]:
    """Return the median processor time of a training step by row, on one thread; rows take turns."""
    torch.set_num_threads(1)
    calls: dict[str, Callable[[], None]] = {}
    intervals: dict[str, int] = {}
    for run in runs:
        words = run.settings()
        config = load_config(words[0], words[1:])
        steps = TrainingSteps(config)
        dataset = open_dataset(config)
        batch = collate([dataset[(0, place)] for place in range(config.train.batch_size)])
        intervals[run.row] = config.optimizer.discriminator_interval

        def call(steps: TrainingSteps = steps, batch: Any = batch, count: int = intervals[run.row]) -> None:
            for _ in range(count):  # as many as update every network
                steps(batch)

        calls[run.row] = call
    return {row: taken / intervals[row] for row, taken in in_turns(calls, repeats, time.process_time).items()}


def read_costs(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return what `time` measured: processor seconds of a step, by table and row.

    Raises:
        ValueError: nothing was measured.
    """
    file = args.runs / "costs.json"
    if not file.exists():
        raise ValueError(f"{file} is missing, so the cost of a step is unknown; run the verb `time` first")
    costs: dict[str, dict[str, float]] = json.loads(file.read_text(encoding="utf-8"))
    return costs


def time_runs(args: argparse.Namespace, runs: Iterable[Run]) -> int:
    """Measure a step of each row of each table, and write `costs.json`."""
    file = args.runs / "costs.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    tables: dict[str, list[Run]] = {}
    for run in runs:
        tables.setdefault(run.table, []).append(run)
    for table, rows in tables.items():
        found[table] = seconds_of_steps(rows, args.repeats)
        print(table, {row: round(taken, 3) for row, taken in found[table].items()}, flush=True)
    write_json(file, found)
    return 0


def wanted(args: argparse.Namespace, runs: Iterable[Run]) -> list[Run]:
    """Return the runs that `--only` names, or all."""
    return [run for run in runs if not args.only or {run.row, f"{run.row}:{run.seed}"} & set(args.only)]


# --- scores -------------------------------------------------------------------------------------------------------


def segmenter_for(
    args: argparse.Namespace, table: str, settings: Sequence[str], training: SegmenterSettings | None = None
) -> Path:
    """Return the segmenter of a table's data; train it on real pairs, from nothing, if it is missing.

    Raises:
        ValueError: the segmenter has another architecture or encoder, or was trained for another number of steps.
    """
    folder: Path = args.runs / "segmenters" / table
    if training is None:
        training = SegmenterSettings(steps=args.segmenter_steps)
    elif (folder / "segmenter.json").exists():
        info = json.loads((folder / "segmenter.json").read_text(encoding="utf-8"))
        known = info["architecture"], info["encoder"], info["training"]["steps"]
        if known != (training.architecture, training.encoder, training.steps):
            raise ValueError(f"{folder} is another judge, {known}; correct `judge`, or choose another --runs")
    if not (folder / "segmenter.json").exists():
        data = load_config(settings[0], list(settings[1:])).data
        scenes = ScenesConfig(seed=SEGMENTER_WORLD, val_count=128)
        names = ("format", "root", "label_space", "size")
        config = DataConfig.model_validate({name: getattr(data, name) for name in names} | {"scenes": scenes})
        print(train_segmenter(config, folder, training), flush=True)
    return folder


def facts_of(segmenter: Path) -> dict[str, Any]:
    """Return what a reader should know of a segmenter."""
    info = json.loads((segmenter / "segmenter.json").read_text(encoding="utf-8"))
    return {key: info[key] for key in ("architecture", "encoder", "size", "held_out")}


def evaluate(run: Path, segmenter: Path, *, samples: int, count: int, more: Sequence[str] = ()) -> Scores:
    """Return a run's scores, from its report if that is of the same checkpoint and segmenter.

    Args:
        run: its folder.
        segmenter: folder of the segmenter.
        samples: images per label map.
        count: held-out label maps.
        more: further scores to return.
    """
    file = run / f"report-{count}x{samples}.json"
    checkpoint = latest_checkpoint(run)
    step = int(checkpoint.name.removeprefix("step-")) if checkpoint else 0
    report = read_report(file) if file.exists() else None
    protocol: Any = report["protocol"] if report else {"generated": {"step": None}, "segmenter": None}
    known = protocol["generated"]["step"], (protocol["segmenter"] or {}).get("weights_sha256")
    if report is None or known != (step, file_sha256(segmenter / WEIGHTS_FILE)):
        words = [str(run), "--out", str(file), "--segmenter", str(segmenter), "--device", "cpu", "--overwrite"]
        words += ["--samples", str(samples), "--count", str(count)]
        command = [sys.executable, "-m", "lab2pix", "evaluate", *words]
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
            raise ValueError(f"{run} could not be evaluated; the reason is above")
        report = read_report(file)
    return {name: float(report["scores"][name]["mean"]) for name in (*SCORES, *more)}


def score_runs(
    args: argparse.Namespace, runs: Sequence[Run], segmenter: Path, more: Sequence[str] = ()
) -> tuple[BySeed, dict[str, Path]]:
    """Return the scores of the runs that have ended, and the folder of each row's first run."""
    by_seed: BySeed = {}
    folders: dict[str, Path] = {}
    for run in runs:
        folder = args.runs / run.name
        if not finished(folder, run.settings()):
            print(f"{folder} has not ended, so it is left out", flush=True)
            continue
        found = evaluate(folder, segmenter, samples=args.samples, count=args.count, more=more)
        by_seed.setdefault(run.row, {})[run.seed] = found
        folders.setdefault(run.row, folder)
        print(run.name, found, flush=True)
    return by_seed, folders


def _mean_std(values: Sequence[float]) -> dict[str, float | None]:
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else None}


def summary(scores: BySeed) -> dict[str, dict[str, Any]]:
    """Return mean and standard deviation over the seeds (None for a single one), by row and score."""
    return {
        row: {"seeds": len(seeds)}
        | {name: _mean_std([found[name] for found in seeds.values()]) for name in next(iter(seeds.values()))}
        for row, seeds in scores.items()
    }


def differences(scores: BySeed, below: str, above: str) -> dict[str, dict[str, float | None]]:
    """Return mean and standard deviation over the seeds of one row's scores less those of another."""
    first, second = scores.get(below, {}), scores.get(above, {})
    shared = sorted(set(first) & set(second))
    names = first[shared[0]] if shared else ()
    return {name: _mean_std([first[seed][name] - second[seed][name] for seed in shared]) for name in names}


def cell(score: Mapping[str, float | None], digits: int = 3, sign: str = "") -> str:
    """Return mean and deviation as a table shows them."""
    spread = "" if score["std"] is None else f" ± {score['std']:.{digits}f}"
    return f"{score['mean']:{sign}.{digits}f}{spread}"


def sheet(runs: Mapping[str, Path], file: Path, *, truth: bool = True, columns: int = 6, zoom: int = 2) -> None:
    """Write an image with one row per run, for held-out label maps at equal distances.

    Args:
        runs: folders by the title of their row.
        file: the image to write.
        truth: show label maps and photos too, which the license of a dataset may forbid.
        columns: how many label maps.
        zoom: factor of enlargement, by nearest neighbor.
    """
    rows: list[tuple[str, list[Image.Image]]] = []
    photos: list[Image.Image] = []
    for title, folder in runs.items():
        synthesizer = Synthesizer.load(folder, device="cpu")
        dataset = open_dataset(synthesizer.config, "val")
        batch = collate([dataset[(0, place * len(dataset) // columns)] for place in range(columns)])
        images = synthesizer.generate(batch, synthesizer.noise_samples(0, columns))
        if not rows and truth:
            rows.append(("label map", [to_pil(item) for item in synthesizer.label_space.to_colors(batch.label)]))
            photos = [] if batch.image is None else [to_pil(item) for item in float_to_uint8(batch.image)]
        rows.append((title, [to_pil(item) for item in float_to_uint8(images)]))
    rows += [("photo", photos)] if photos else []
    width, height = (side * zoom for side in rows[0][1][0].size)
    font = ImageFont.load_default(13)
    gap, left = 4, 14 + max(round(font.getlength(title)) for title, _ in rows)
    page = Image.new("RGB", (left + columns * (width + gap), len(rows) * (height + gap) + gap), "white")
    pen = ImageDraw.Draw(page)
    for row, (title, images_of_row) in enumerate(rows):
        top = gap + row * (height + gap)
        pen.text((6, top + height // 2 - 8), title, fill="black", font=font)
        for column, image in enumerate(images_of_row):
            page.paste(image.resize((width, height), Image.Resampling.NEAREST), (left + column * (width + gap), top))
    file.parent.mkdir(parents=True, exist_ok=True)
    page.save(file, quality=90)


# --- command line -------------------------------------------------------------------------------------------------


def part_of(text: str) -> tuple[int, int]:
    """Parse `1/2`: the first of two parts."""
    part, _, parts = text.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"'{text}' is not a part such as 1/2")
    return int(part), int(parts)


def command_line(description: str | None) -> tuple[argparse.ArgumentParser, list[argparse.ArgumentParser]]:
    """Return a parser with the verbs `train`, `time` and `score`, and the parsers of these verbs."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    training = verbs.add_parser("train", help="train or resume all runs that have not ended")
    training.add_argument("--part", type=part_of, default=(1, 1), metavar="I/N", help="every N-th run, from the I-th")
    timing = verbs.add_parser("time", help="measure the cost of a training step of each row")
    timing.add_argument("--repeats", type=int, default=10, help="steps of each row")
    scoring = verbs.add_parser("score", help="score the runs that have ended")
    scoring.add_argument("--out", type=Path, required=True, help="folder for JSON and images")
    scoring.add_argument("--count", type=int, default=256, help="held-out label maps")
    scoring.add_argument("--samples", type=int, default=1, help="images per label map")
    scoring.add_argument("--segmenter-steps", type=int, default=1200, help="of the segmenter, if it is missing")
    for verb in (training, timing, scoring):
        verb.add_argument("--runs", type=Path, required=True, help="folder of the runs")
        verb.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings to change in every run")
        verb.add_argument("--only", nargs="+", metavar="ROW[:SEED]", help="some runs only, such as a or h:0")
    return parser, [training, timing, scoring]
