"""From the runs of a ladder to its table: scores of every run, means over seeds, and each step beside the paper's."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image, ImageDraw, ImageFont

from lab2pix import Synthesizer
from lab2pix.data.build import build_dataset
from lab2pix.data.samples import collate
from lab2pix.data.transforms import float_to_uint8, to_pil
from lab2pix.evaluation.evaluator import Protocol
from lab2pix.evaluation.report import higher_is_better, read_report
from lab2pix.evaluation.segmenters import WEIGHTS_FILE
from lab2pix.inference.evaluate import evaluate_run
from lab2pix.training import latest_checkpoint
from lab2pix.utils.pretrained import file_sha256

__all__ = [
    "PAPER",
    "SCORES",
    "class_ious",
    "compare_steps",
    "facts_of",
    "judge",
    "markdown",
    "sheet",
    "steps_markdown",
    "summary",
]

SCORES = ("ppa", "pca", "ciou", "frechet_efficientnet_lite0")
"""What the paper's tables hold, with the distance named after its features."""

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
"""Tables 1 and 2: PPA, PCA, C-IoU and FID of each rung, on Cityscapes."""

Scores: TypeAlias = dict[str, float]
BySeed: TypeAlias = dict[str, dict[int, Scores]]
"""A ladder's scores by rung and seed."""


def report_file(run: Path, *, samples: int, count: int) -> Path:
    """Return where `judge` keeps a run's report."""
    return run / f"report-{count}x{samples}.json"


def class_ious(run: Path, *, samples: int, count: int) -> dict[str, float | None]:
    """Return the IoU of each class in a run that was judged; None where it has no pixel."""
    report = read_report(report_file(run, samples=samples, count=count))
    return {item["name"]: item["iou"] for item in report["classes"]}


def judge(run: Path, segmenter: Path, *, samples: int, count: int, own: Sequence[str] = ()) -> Scores:
    """Return a run's scores; its report lies in its folder, and is used again for the same weights and segmenter.

    Args:
        run: the run's folder.
        segmenter: what reads label maps in its pictures.
        samples: pictures per label map.
        count: held-out label maps.
        own: further scores to return, such as `psnr`.
    """
    file = report_file(run, samples=samples, count=count)
    checkpoint = latest_checkpoint(run)
    step = int(checkpoint.name.removeprefix("step-")) if checkpoint else 0
    wanted = (step, file_sha256(segmenter / WEIGHTS_FILE))
    report = read_report(file) if file.exists() else None
    if report is None or _asked(report) != wanted:
        found = evaluate_run(
            run, Protocol(segmenter=str(segmenter)), samples=samples, count=count, device="cpu", pictures=None
        )
        found.save(file, overwrite=True)
        report = read_report(file)
    return {name: float(report["scores"][name]["mean"]) for name in (*SCORES, *own)}


def _asked(report: Mapping[str, Any]) -> tuple[int, str | None]:
    """Return the step of what was judged, and the hash of the segmenter."""
    protocol = report["protocol"]
    return protocol["generated"]["step"], (protocol["segmenter"] or {}).get("weights_sha256")


def summary(scores: BySeed) -> dict[str, dict[str, Any]]:
    """Return mean and standard deviation over the seeds (None for a single one), by rung and score."""
    table: dict[str, dict[str, Any]] = {}
    for rung, seeds in scores.items():
        table[rung] = {"seeds": len(seeds)}
        for name in next(iter(seeds.values())):
            values = [found[name] for found in seeds.values()]
            deviation = statistics.stdev(values) if len(values) > 1 else None
            table[rung][name] = {"mean": statistics.fmean(values), "std": deviation}
    return table


def compare_steps(scores: BySeed, paper: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Return what each rung changes against the one above, and whether the paper's table says the same.

    A change is `better` or `worse` where its mean over the seeds (each seed against itself) is larger than the
    deviation of these differences, else `open`.
    """
    rungs = [rung for rung in scores if rung in paper]
    steps = []
    for above, rung in pairwise(rungs):
        shared = sorted(set(scores[above]) & set(scores[rung]))
        if not shared:
            continue
        step: dict[str, Any] = {"from": above, "to": rung, "seeds": len(shared)}
        for place, name in enumerate(SCORES):
            changes = [scores[rung][seed][name] - scores[above][seed][name] for seed in shared]
            mean = statistics.fmean(changes)
            spread = statistics.stdev(changes) if len(changes) > 1 else None
            theirs = paper[rung][place] - paper[above][place]
            step[name] = {
                "mean": mean,
                "std": spread,
                "here": _direction(mean, spread, name),
                "paper": theirs,
                "there": _direction(round(theirs, 6), 0.0, name),
            }
        steps.append(step)
    return steps


def _direction(change: float, spread: float | None, name: str) -> str:
    if spread is None or abs(change) <= spread:
        return "open" if spread is None or spread > 0 else "equal"
    return "better" if (change > 0) == higher_is_better(name) else "worse"


def markdown(
    table: Mapping[str, Mapping[str, Any]], titles: Mapping[str, str], costs: Mapping[str, Mapping[str, float]]
) -> str:
    """Return the scores in the paper's form, with what a step costs; the best of each column in bold.

    Args:
        table: of `summary`.
        titles: of the rungs, for their rows.
        costs: per rung `seconds` of a step and `peak_mib`.
    """
    lines = ["| rung | | PPA | PCA | C-IoU | Fréchet | step (s) | peak (MiB) |", "|---|---|" + "---:|" * 6]
    best = {
        name: (max if higher_is_better(name) else min)(table, key=lambda rung, name=name: table[rung][name]["mean"])
        for name in SCORES
    }
    for rung, row in table.items():
        cells = [_cell(row[name], name, bold=best[name] == rung) for name in SCORES]
        cost = costs.get(rung, {})
        seconds = f"{cost['seconds']:.2f}" if "seconds" in cost else "–"
        peak = f"{cost['peak_mib']:,.0f}" if "peak_mib" in cost else "–"
        lines.append(f"| {rung} | {titles[rung]} | {' | '.join(cells)} | {seconds} | {peak} |")
    return "\n".join(lines)


def _cell(score: Mapping[str, float | None], name: str, *, bold: bool) -> str:
    digits = 1 if name.startswith("frechet") else 3
    text = f"{score['mean']:.{digits}f}" + ("" if score["std"] is None else f" ± {score['std']:.{digits}f}")
    return f"**{text}**" if bold else text


def steps_markdown(steps: Sequence[Mapping[str, Any]]) -> str:
    """Return what each step changed here and in the paper."""
    lines = ["| step | PPA | PCA | C-IoU | Fréchet (here), FID (paper) |", "|---|---|---|---|---|"]
    for step in steps:
        cells = []
        for name in SCORES:
            change, digits = step[name], 1 if name.startswith("frechet") else 3
            spread = "" if change["std"] is None else f" ± {change['std']:.{digits}f}"
            here = f"{change['mean']:+.{digits}f}{spread} {change['here']}"
            cells.append(f"{here}; paper {change['paper']:+.{digits}f} {change['there']}")
        lines.append(f"| {step['from']} to {step['to']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sheet(runs: Mapping[str, Path], file: Path, *, truth: bool = True, columns: int = 6, zoom: int = 2) -> None:
    """Draw held-out label maps, evenly chosen, a row for each run below the label maps and above the photos.

    Args:
        runs: folders by the words that stand before their row.
        file: the picture to write.
        truth: show label maps and photos too, which may not be passed on of every data set.
        columns: how many label maps.
        zoom: enlarge by so much, pixel by pixel.
    """
    rows: list[tuple[str, list[Image.Image]]] = []
    last: list[Image.Image] = []
    for title, folder in runs.items():
        synthesizer = Synthesizer.load(folder, device="cpu")
        dataset = build_dataset(synthesizer.config.data, "val", synthesizer.label_space, 0, paired=False)
        batch = collate([dataset[(0, place * len(dataset) // columns)] for place in range(columns)])
        pictures = synthesizer.generate(batch, synthesizer.noise_samples(0, columns))
        if not rows and truth:
            rows.append(("label map", [to_pil(item) for item in synthesizer.label_space.to_colors(batch.label)]))
            last = [] if batch.image is None else [to_pil(item) for item in float_to_uint8(batch.image)]
        rows.append((title, [to_pil(item) for item in float_to_uint8(pictures)]))
    if last:
        rows.append(("photo", last))
    width, height = (side * zoom for side in rows[0][1][0].size)
    font = ImageFont.load_default(13)
    gap, left = 4, 14 + max(round(font.getlength(title)) for title, _ in rows)
    page = Image.new("RGB", (left + columns * (width + gap), len(rows) * (height + gap) + gap), "white")
    pen = ImageDraw.Draw(page)
    for row, (title, pictures_of_row) in enumerate(rows):
        top = gap + row * (height + gap)
        pen.text((6, top + height // 2 - 8), title, fill="black", font=font)
        for column, picture in enumerate(pictures_of_row):
            place = (left + column * (width + gap), top)
            page.paste(picture.resize((width, height), Image.Resampling.NEAREST), place)
    file.parent.mkdir(parents=True, exist_ok=True)
    page.save(file, quality=90)


def facts_of(folder: Path) -> dict[str, object]:
    """Return what a reader should know of a segmenter."""
    info = json.loads((folder / "segmenter.json").read_text(encoding="utf-8"))
    return {key: info[key] for key in ("architecture", "encoder", "size", "held_out")}
