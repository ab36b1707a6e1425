"""Result of a fit: a sheet of held-out label maps beside the true photos, scores in plain words, and next commands."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from torch import Tensor

from lab2pix.data.build import build_dataset, is_paired, open_held_out_photos
from lab2pix.data.transforms import float_to_uint8, resize_image, to_pil
from lab2pix.evaluation.protocol import Protocol
from lab2pix.inference import Synthesizer
from lab2pix.inference.evaluate import evaluate_run
from lab2pix.methods import get_method
from lab2pix.reporting.grid import image_grid
from lab2pix.reporting.html import inline_image, write_html
from lab2pix.reporting.scores import score_title
from lab2pix.training.log import read_scores
from lab2pix.utils.files import output_errors, write_png
from lab2pix.utils.sequences import evenly_spaced

_SHOWN = 8
_TILE = 192  # pixels of the longest side
_COUNT = 64  # label maps to score

_WORDS: Mapping[str, tuple[tuple[float, str], tuple[float, str], str]] = {
    "psnr": ((17, "colors are close to the photo's"), (13, "colors are roughly the photo's"), "colors differ"),
    "ssim": ((0.5, "details are close to the photo's"), (0.2, "shapes are alike, details differ"), "details differ"),
    "checkerboard": ((0.9, "no pattern of pixels"), (0.75, "a faint pattern of pixels"), "a pattern of pixels"),
    "frechet": ((-8, "as a set, close to the photos"), (-25, "as a set, recognizable"), "as a set, far from photos"),
    "seg_error": ((-0.15, "classes are where they should be"), (-0.4, "most classes are"), "classes are not yet there"),
}
"""Words of scores by the bound that they reach; bounds of scores of which less is better are negative."""


def plain_words(name: str, value: float) -> str | None:
    """Return what a score means in plain words; None for scores without words."""
    kind = "frechet" if name.startswith("frechet_") else name
    if kind not in _WORDS or not math.isfinite(value):
        return None
    good, fair, poor = _WORDS[kind]
    signed = -value if good[0] < 0 else value
    return next((words for bound, words in (good, fair) if signed >= bound), poor)


def trend(values: Mapping[int, float]) -> str | None:
    """Return whether more time would help, from a validation score by step of which less is better.

    The last value is compared with that at three quarters of the steps.
    """
    if len(values) < 3:
        return None
    last = max(values)
    earlier = max(step for step in values if step <= max(0.75 * last, min(values)))
    change = values[last] / values[earlier] - 1 if values[earlier] else 0.0
    if change < -0.01:
        return "the images still improve: more time helps"
    return "the images get worse: more photos help, more time does not" if change > 0.03 else "the images hardly change"


def next_commands(out: Path, run: Path, *, finished: bool) -> list[tuple[str, str]]:
    """Return commands with their purposes.

    Args:
        out: folder of the fit.
        run: its run.
        finished: whether all steps of the plan were made.
    """
    train = ["lab2pix", "train", str(out / "plan.yaml")]
    further = (
        ([*train, f"train.init_from={run}", "--out", str(out / "more")], "train on from these weights")
        if finished
        else ([*train, "--resume", "--out", str(run)], "make the other steps of the plan")
    )
    commands = [
        (["lab2pix", "paint", str(run)], "paint label maps and see the images"),
        (["lab2pix", "generate", str(run), "LABELS", "--out", "images"], "images of your label maps"),
        further,
        (
            ["lab2pix", "export", str(run), "--web", str(out / "web"), "--ort", "ONNXRUNTIME_WEB"],
            "a page to share, which needs no server",
        ),
    ]
    return [(shlex.join(words), purpose) for words, purpose in commands]


def write_report(out: Path, run: Path, page: Path, scores: Mapping[str, float], *, device: str | None = None) -> None:
    """Write `sheet.png`, `scores.json` with its page, and the page of the fit.

    Args:
        out: folder of the fit.
        run: the finished run.
        page: file of the page, written last.
        scores: validation scores of the run.
        device: device to generate on.

    Raises:
        OutputError: a file cannot be written.
    """
    synthesizer = Synthesizer.load(run, device=device)
    config, space = synthesizer.config, synthesizer.label_space
    sheet = _sheet(synthesizer)
    with output_errors(out, "make room, and repeat the command"):
        write_png(out / "sheet.png", sheet)
    report = evaluate_run(run, Protocol(batch_size=8), count=_COUNT, device=device)
    report.save(out / "scores.json", overwrite=True)
    found = {name: score.mean for name, score in report.scores.items() if score.mean is not None} | dict(scores)
    told = [(score_title(name), value, plain_words(name, value)) for name, value in found.items()]
    history = read_scores(run / "log.jsonl")
    name = next((name for name in ("perceptual", "cycle", "l1") if name in history), None)
    with output_errors(page, "make room, and repeat the command"):
        write_html(
            page,
            "fit.html",
            title=f"{config.name}: what was learned",
            paired=is_paired(config.data),
            step=synthesizer.step,
            steps=config.train.steps,
            sheet=inline_image(sheet, "Held-out label maps, generated images and photos", lossless=True, longest=4096),
            classes=space.classes,
            scores=[row for row in told if row[2] is not None],
            trend=None if name is None else trend(history[name]),
            plan=(out / "plan.yaml").read_text(encoding="utf-8"),
            commands=next_commands(out, run, finished=config.train.steps in (None, synthesizer.step)),
        )


def _sheet(synthesizer: Synthesizer) -> Image.Image:
    """Draw held-out label maps, their images and their photos; other photos where the pairing is unknown."""
    config, space = synthesizer.config, synthesizer.label_space
    paired = get_method(config.method).paired
    held_out = build_dataset(config.data, "val", space, config.seed, paired=paired)
    photos = open_held_out_photos(config.data, space, config.seed)
    scale = _TILE / max(synthesizer.size)
    tile = (round(scale * synthesizer.size[0]), round(scale * synthesizer.size[1]))

    def cell(pixels: Tensor, mode: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
        return to_pil(pixels).resize(tile[::-1], mode)

    rows = []
    for place, index in enumerate(evenly_spaced(len(held_out), _SHOWN)):
        sample = held_out[(0, index)]
        label, image = sample["label"], sample["image"]
        row = [cell(space.to_colors(label), Image.Resampling.NEAREST)]
        row += [cell(synthesizer(label, seed=seed).tensor[0]) for seed in range(1 if paired else 2)]
        if image is not None:
            row.append(cell(float_to_uint8(image)))
        elif photos is not None:
            row.append(cell(resize_image(photos.read_photo(place % len(photos)), synthesizer.size)))
        rows.append(row)
    last = "photo" if paired else "another photo"
    titles = ["label map", *(["generated"] if paired else ["seed 0", "seed 1"]), last]
    if paired and max(tile) * 3 < 900:
        rows = [[image for row in rows[start : start + 2] for image in row] for start in range(0, len(rows), 2)]
        titles = titles * min(2, len(held_out))
    return image_grid(rows, titles)
