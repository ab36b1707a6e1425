"""Methods trained on one dataset for equal time or for equal steps, scored alike: the comparisons of the paper (5.5).

python benchmarks/compare.py time benchmarks/compare/facades.yaml --runs runs     # cost of a step of each method
python benchmarks/compare.py train benchmarks/compare/facades.yaml --runs runs --jobs 2
python benchmarks/compare.py score benchmarks/compare/facades.yaml --runs runs --out benchmarks/results

A comparison is a YAML file: see `Comparison`. Training resumes with the same command; each run has one thread. With
`minutes`, the number of steps follows from the processor time of a step that `time` has measured, so that learning-rate
schedules know the end of a run, and the result does not depend on what else the machine does.

`score` generates one image of each held-out label map and scores all methods by the same label maps, photos and
networks. The judge, a segmenter, is trained on real pairs only. `--files even` scores the even-numbered held-out files,
counted from 0, for the choice of a recipe, and `--files odd` the others, for reports.
Each image is also scored against another image's label map: a method whose PPA does not exceed that does not follow its
label maps, and `score` ends with exit code 1.
Written to `--out`: `compare-NAME.json`, `.md`, `.tex`, `.csv` and `.jpg`, NAME being that of the YAML file, with
`-even` or `-odd` after it if there are only such files.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from types import FrameType
from typing import Any

import torch
from _comparison import Comparison, portable, slug
from _environment import TrainingSteps, environment, in_turns, open_dataset, peak_allocated, write_json
from _runs import BySeed, Run, facts_of, finished, segmenter_for, summary, training_command
from _tables import COLUMNS, comma_separated, latex, markdown, side_by_side
from torch import Tensor

from lab2pix import Synthesizer, evaluate_images
from lab2pix.batch import Batch
from lab2pix.data.build import build_dataset
from lab2pix.data.samples import collate
from lab2pix.data.transforms import float_to_uint8, to_pil
from lab2pix.errors import ConfigError, Lab2PixError
from lab2pix.evaluation.held_out import held_out_noise
from lab2pix.evaluation.protocol import Protocol
from lab2pix.evaluation.segmenters import WEIGHTS_FILE
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import Progress, example_inputs, generate_deterministic, get_method
from lab2pix.nn.fast import fuse
from lab2pix.recipes import load_config
from lab2pix.training import latest_checkpoint
from lab2pix.training.log import read_log
from lab2pix.training.segmenter import SegmenterSettings
from lab2pix.utils.files import write_atomically
from lab2pix.utils.pretrained import file_sha256

JUDGED = {"frechet_segmenter", "kernel_segmenter"}
"""Distances in the features of the segmenter."""
FILES = {"all": slice(None), "even": slice(0, None, 2), "odd": slice(1, None, 2)}
"""Held-out files that `score` uses, by `--files`."""
SEGMENTED = {"ppa", "pca", "ciou"}
"""Scores that need a segmenter."""
REAL = "real photos"
"""Title of the reference row."""


# --- costs --------------------------------------------------------------------------------------------------------


def measure(
    comparison: Comparison, repeats: int, *, plain: bool = False, threads: int = 1
) -> dict[str, dict[str, float]]:
    """Return costs by method; methods take turns.

    `step_s`: median processor time of a step, or wall-clock time with several threads, over both halves of a run, as
    methods may train in stages; `image_s`: of generating an image; `step_mib`: peak of allocations in a step;
    `generator_m`: weights of the generator in millions. With `plain` also `step_plain_s`, of networks that are not
    accelerated, and `image_fast_s`, of a generator that can be fused.
    """
    torch.set_num_threads(threads)
    calls: dict[str, Any] = {}
    costs: dict[str, dict[str, float]] = {}
    counts: dict[str, int] = {}
    for title in comparison.methods:
        preset, *settings = comparison.words(title)
        config = load_config(preset, settings)
        steps, dataset = TrainingSteps(config), open_dataset(config)
        batch = collate([dataset[(0, place % len(dataset))] for place in range(config.train.batch_size)])
        interval = getattr(config.optimizer, "discriminator_interval", 1)
        progress = [
            Progress(start + one, 1000, len(dataset), config.train.batch_size)
            for start in (250, 750)
            for one in range(interval)  # as many steps as update every network
        ]

        def step(steps: TrainingSteps, batch: Batch, progress: Sequence[Progress]) -> None:
            for place in progress:
                steps.context = replace(steps.context, progress=place)
                steps(batch)

        sampling = steps.state.method.sampling
        generator = get_method(config.method).build_generator(config, steps.label_space).eval()
        inputs, noise = example_inputs(sampling, config.data.size, 1)
        counts[title] = len(progress)
        calls[title] = partial(step, steps, batch, progress)
        calls[f"{title}, image"] = partial(generate_deterministic, generator, sampling, inputs, noise)
        if plain:
            calls[f"{title}, plain"] = partial(step, TrainingSteps(config, plain=True), batch, progress)
            with suppress(ConfigError):  # not every generator can be fused
                calls[f"{title}, fast"] = partial(generate_deterministic, fuse(generator), sampling, inputs, noise)
        peak = max(peak_allocated(partial(step, steps, batch, [place]), steps.device) for place in progress)
        weights = sum(parameter.numel() for parameter in generator.parameters()) / 1e6
        costs[title] = {"step_mib": peak, "generator_m": weights, "batch_size": config.train.batch_size}
    taken = in_turns(calls, repeats, time.process_time if threads == 1 else time.perf_counter)
    for title, own in costs.items():
        own.update({"step_s": taken[title] / counts[title], "image_s": taken[f"{title}, image"]})
        if plain:
            own["step_plain_s"] = taken[f"{title}, plain"] / counts[title]
        if f"{title}, fast" in taken:
            own["image_fast_s"] = taken[f"{title}, fast"]
    return costs


def read_costs(args: argparse.Namespace, comparison: Comparison) -> dict[str, dict[str, float]]:
    """Return what `time` measured; nothing if it did not run."""
    file = args.runs / comparison.name / "costs.json"
    found: dict[str, dict[str, float]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


# --- training -----------------------------------------------------------------------------------------------------


def train_runs(folder: Path, runs: Sequence[Run], jobs: int) -> int:
    """Train the runs that have not ended, `jobs` at a time with one thread each; return the first exit code but 0.

    A signal is passed on to the trainings, which then write a checkpoint.
    """
    waiting = [run for run in runs if not finished(folder / run.name, run.settings())]
    for run in runs:
        print(f"{folder / run.name}: {'training' if run in waiting else 'finished'}, {run.steps} steps", flush=True)
    running: dict[subprocess.Popen[bytes], Run] = {}
    codes: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        waiting.clear()
        for process in running:
            process.send_signal(number)

    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                command = training_command(folder / run.name, run.settings())
                running[subprocess.Popen(command, env=one_thread)] = run
            for process in [one for one in running if one.poll() is not None]:
                run = running.pop(process)
                codes += [process.returncode] if process.returncode else []
                if process.returncode:
                    print(f"{run.name} stopped with exit code {process.returncode}; the same command resumes it")
            time.sleep(0.2)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return codes[0] if codes else 0


# --- scores -------------------------------------------------------------------------------------------------------


def held_out(config: Any, space: Any, count: int, files: str = "all") -> Batch:
    """Return the first held-out inputs with their photos, or every other one of them."""
    dataset = build_dataset(config.data, "val", space, config.seed, paired=True)
    return collate([dataset[(0, place)] for place in range(min(count, len(dataset)))[FILES[files]]])


@torch.no_grad()
def generate(synthesizer: Synthesizer, batch: Batch) -> Tensor:
    """Return one image per input, `[N, 3, H, W]` uint8."""
    shape = synthesizer.sampling.noise_shape(synthesizer.size) or (0,)
    noise = held_out_noise(0, range(len(batch)), shape)
    parts = [slice(start, start + 8) for start in range(0, len(batch), 8)]
    return torch.cat([float_to_uint8(synthesizer.generate(batch[part], noise[part])) for part in parts])


def score_images(images: Tensor, batch: Batch, space: Any, segmenter: Path | None, names: Sequence[str]) -> Any:
    """Return some scores of images, and `shuffled_ppa`, their PPA against label maps half the list away."""
    assert batch.image is not None
    features = ["efficientnet-lite0"] if any(name.endswith("efficientnet_lite0") for name in names) else []
    features += [f"segmenter:{segmenter}"] if JUDGED & set(names) else []
    protocol = Protocol(features=features, segmenter=segmenter)
    labels = {} if segmenter is None else {"labels": batch.label, "label_space": space}
    report = evaluate_images(images, float_to_uint8(batch.image), protocol, **labels, device="cpu")
    found = {name: report.scores[name].mean for name in names if name in report.scores}
    if segmenter is not None:
        other = {"labels": batch.label.roll(len(images) // 2, 0), "label_space": space}
        shuffled = evaluate_images(images, None, Protocol(features=(), segmenter=segmenter), **other, device="cpu")
        found["shuffled_ppa"] = shuffled.scores["ppa"].mean
    return found


def score_run(
    folder: Path, segmenter: Path | None, names: Sequence[str], count: int, files: str = "all"
) -> dict[str, float]:
    """Return the scores of a run, from `scores.json` in its folder if that is of the same checkpoint and networks.

    The scores of even or odd files are in `scores-even.json` or `scores-odd.json`.
    """
    checkpoint = latest_checkpoint(folder)
    assert checkpoint is not None
    weights = None if segmenter is None else file_sha256(segmenter / WEIGHTS_FILE)
    key = {"checkpoint": checkpoint.name, "segmenter": weights, "count": count, "names": list(names)}
    file = folder / f"scores{suffix(files)}.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if known.get("of") != key:
        synthesizer = Synthesizer.load(folder, device="cpu")
        batch = held_out(synthesizer.config, synthesizer.label_space, count, files)
        found = score_images(generate(synthesizer, batch), batch, synthesizer.label_space, segmenter, names)
        known = {"of": key, "scores": found}
        write_json(file, known)
    return dict(known["scores"])


def suffix(files: str) -> str:
    """Return what the names of files with the scores of some held-out files end in."""
    return "" if files == "all" else f"-{files}"


def discriminator_terms(folder: Path) -> dict[str, float]:
    """Return the logged loss terms of a run's discriminators, mean over the last tenth of its log.

    `discriminator_real`, `discriminator_fake`: near 0 where the discriminators have won.
    """
    lines = read_log(folder / "log.jsonl")
    logged = [terms for line in lines if (terms := line.get("losses", {}).get("discriminator"))]
    last = logged[-max(1, len(logged) // 10) :]
    return {f"discriminator_{name}": fmean(terms[name] for terms in last) for name in last[-1]} if last else {}


def write_sheet(folders: Mapping[str, Path], file: Path, *, data: bool, rows: int = 6) -> None:
    """Write the label map, the photo and the image of each method for held-out inputs at equal distances."""
    columns: dict[str, Any] = {}
    for title, folder in folders.items():
        synthesizer = Synthesizer.load(folder, device="cpu")
        batch = held_out(synthesizer.config, synthesizer.label_space, 10**6)
        places = [place * len(batch) // rows for place in range(rows)]
        chosen = torch.stack([generate(synthesizer, batch[place : place + 1])[0] for place in places])
        if data and not columns:
            assert batch.image is not None
            columns["input"] = list(map(to_pil, synthesizer.label_space.to_colors(batch.label[places])))
            columns["photo"] = list(map(to_pil, float_to_uint8(batch.image[places])))
        columns[title] = list(map(to_pil, chosen))
    side_by_side(columns).save(file, quality=90)


def faults(by_seed: BySeed) -> list[str]:
    """Return a sentence for each run whose PPA does not exceed that of its images shuffled among the label maps."""
    return [
        f"{title}, seed {seed}: PPA {found['ppa']:.3f} does not exceed {found['shuffled_ppa']:.3f} of its images "
        "shuffled among the label maps"
        for title, seeds in by_seed.items()
        for seed, found in seeds.items()
        if "ppa" in found and found["ppa"] <= found["shuffled_ppa"]
    ]


def score(args: argparse.Namespace, comparison: Comparison) -> int:
    """Score what has ended, and write the table as JSON, Markdown, LaTeX and CSV, and the sheet."""
    costs = read_costs(args, comparison)
    runs = comparison.runs(costs)
    segmenter = None
    if (SEGMENTED | JUDGED) & set(comparison.scores):
        judge = SegmenterSettings(**comparison.judge.model_dump())
        segmenter = segmenter_for(args, comparison.name, runs[0].settings(), judge)
    by_seed: BySeed = {}
    folders: dict[str, Path] = {}
    titles = {slug(title): title for title in comparison.methods}
    for run in runs:
        folder, title = args.runs / run.name, titles[run.row]
        if not finished(folder, run.settings()):
            print(f"{folder} has not ended, so it is left out", flush=True)
            continue
        found = score_run(folder, segmenter, comparison.scores, args.count, args.files) if comparison.scores else {}
        found |= {name: value for name, value in discriminator_terms(folder).items() if name in comparison.scores}
        by_seed.setdefault(title, {})[run.seed] = found
        folders.setdefault(title, folder)
        print(run.name, found, flush=True)
    if not by_seed:
        raise ValueError("no run has ended; run the verb `train` first")
    table = rows_of(comparison, by_seed, costs, {titles[run.row]: run.steps for run in runs})
    if segmenter is not None:
        table[REAL] = {"data": "–", "reference": True, **real_scores(comparison, segmenter, args.count, args.files)}
    shown = [name for name in COLUMNS if any(name in row for row in table.values())]
    wrong = faults(by_seed)
    record = {**environment(), "comparison": portable(comparison), "label_maps_at_most": args.count}
    record |= {"files": args.files, "costs": costs}
    record |= {"segmenter": segmenter and facts_of(segmenter), "runs": by_seed, "rows": table, "faults": wrong}
    start = args.out / f"compare-{comparison.name}{suffix(args.files)}"
    write_json(start.with_suffix(".json"), record)
    text = markdown(table, shown)
    write_atomically(start.with_suffix(".md"), f"{comparison.title}\n\n{text}\n")
    write_atomically(start.with_suffix(".tex"), latex(table, shown, comparison.title) + "\n")
    write_atomically(start.with_suffix(".csv"), comma_separated(table, shown))
    write_sheet(folders, start.with_suffix(".jpg"), data=not args.without_data)
    print("\n".join([text, *wrong]), flush=True)
    return 1 if wrong else 0


def rows_of(
    comparison: Comparison, by_seed: BySeed, costs: Mapping[str, Mapping[str, float]], steps: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """Return the rows of the table: what each method learns from, its scores over the seeds, steps and costs."""
    found = {}
    base = costs.get(comparison.reference or "", {}).get("step_s")
    for title, row in summary(by_seed).items():
        config = load_config(comparison.methods[title].preset)
        own = dict(costs.get(title, {}))
        if base and own:
            # Of one pass over the data: methods see as many images, whatever their batch size.
            shares = {name: costs[name]["step_s"] / costs[name]["batch_size"] for name in (title, comparison.reference)}
            own["time_ratio"] = shares[title] / shares[comparison.reference]
        learns = "pairs" if get_method(config.method).paired else "unpaired"
        found[title] = {"data": learns, **row, "steps": steps[title], **own}
    return found


def real_scores(comparison: Comparison, segmenter: Path, count: int, files: str = "all") -> dict[str, float]:
    """Return the segmenter's scores of the photos themselves."""
    preset, *settings = comparison.words(next(iter(comparison.methods)))
    config = load_config(preset, settings)
    space = LabelSpace.load(config.data.label_space)
    batch = held_out(config, space, count, files)
    assert batch.image is not None
    names = [name for name in comparison.scores if name in {*SEGMENTED, "checkerboard"}]
    found: dict[str, float] = score_images(float_to_uint8(batch.image), batch, space, segmenter, names)
    return found


# --- command line -------------------------------------------------------------------------------------------------


def main(given: Sequence[str] | None = None) -> int:
    """Run a verb."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    timing = verbs.add_parser("time", help="measure the cost of a training step of each method")
    timing.add_argument("--repeats", type=int, default=5, help="measurements of each method")
    timing.add_argument("--threads", type=int, default=1, help="with several, wall-clock times are measured")
    timing.add_argument("--plain", action="store_true", help="also networks that are not accelerated, and fused ones")
    training = verbs.add_parser("train", help="train or resume all runs that have not ended")
    training.add_argument("--jobs", type=int, default=1, help="runs at a time, with one thread each")
    scoring = verbs.add_parser("score", help="score the runs that have ended")
    scoring.add_argument("--out", type=Path, required=True, help="folder for tables and images")
    scoring.add_argument("--count", type=int, default=256, help="held-out label maps at most")
    scoring.add_argument("--files", choices=FILES, default="all", help="which of the held-out files to score")
    scoring.add_argument("--without-data", action="store_true", help="leave inputs and photos out of the sheet")
    for verb in (timing, training, scoring):
        verb.add_argument("comparison", type=Path, help="YAML file, such as benchmarks/compare/facades.yaml")
        verb.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    args = parser.parse_args(given)
    try:
        comparison = Comparison.read(args.comparison, args.runs)
        if args.verb == "time":
            costs = measure(comparison, args.repeats, plain=args.plain, threads=args.threads)
            write_json(args.runs / comparison.name / "costs.json", costs)
            columns = ["step_plain_s"] * args.plain + ["step_s", "image_s"] + ["image_fast_s"] * args.plain
            print(markdown(costs, [*columns, "step_mib", "generator_m"]), flush=True)
            return 0
        if args.verb == "train":
            return train_runs(args.runs, comparison.runs(read_costs(args, comparison)), args.jobs)
        return score(args, comparison)
    except (Lab2PixError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    raise SystemExit(main())
