"""Figures of a run: sample sheet and loss plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.data.transforms import float_to_uint8, to_pil
from lab2pix.methods import Method
from lab2pix.reporting.grid import image_grid
from lab2pix.training.log import read_log
from lab2pix.utils.files import atomic_write

_LEGIBLE = 128  # pixels


def sample_grid(batch: Batch, generated: Tensor, method: Method) -> Image.Image:
    """Return a grid with a row per sample: input (colored label map or source image), generated image, photo if any.

    `generated` is `[N, 3, H, W]` in [-1, 1].
    """
    condition = method.sampling.condition
    given = "source" if condition.source == "images" else "label"
    factor = max(1, _LEGIBLE // generated.shape[-1])  # small images are upsampled pixel by pixel to be legible
    size = (generated.shape[-1] * factor, generated.shape[-2] * factor)
    columns = {given: condition.preview(batch), "generated": float_to_uint8(generated)}
    if batch.image is not None:
        columns["real"] = float_to_uint8(batch.image)
    rows = [
        [to_pil(image).resize(size, Image.Resampling.NEAREST) for image in row]
        for row in zip(*columns.values(), strict=True)
    ]
    return image_grid(rows, list(columns), gap=4, font=11)


def _curves(log: Path) -> dict[str, dict[str, tuple[list[int], list[float]]]]:
    """Return steps and values of each curve, by panel and term."""
    panels: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    for line in read_log(log):
        found: Mapping[str, Mapping[str, float]] = dict(line.get("losses", {}))
        if "scores" in line:
            found = {"validation scores": line["scores"]}
        for panel, terms in found.items():
            for term, value in terms.items():
                steps, values = panels.setdefault(panel, {}).setdefault(term, ([], []))
                steps.append(line["step"])
                values.append(value)
    return panels


def _smooth(values: Sequence[float]) -> list[float]:
    """Return the bias-corrected exponential moving average, with a window of about 1/30 of the curve."""
    keep = 1 - 1 / max(1.0, len(values) / 30)
    total = weight = 0.0
    smooth = []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        smooth.append(total / weight)
    return smooth


def plot_losses(log: Path, file: Path) -> None:
    """Plot raw and smoothed curves of a log, with one panel per phase and one for validation scores.

    Without the extra `plots` there is no plot.
    """
    if find_spec("matplotlib") is None:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _curves(log)
    if not panels:
        return
    figure = Figure(figsize=(8, 3.2 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (panel, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(len(panels), 1, index + 1)
        for color, (term, (steps, values)) in enumerate(curves.items()):
            smooth = values if panel == "validation scores" else _smooth(values)
            axes.plot(steps, values, color=f"C{color}", alpha=0.2, linewidth=0.8)
            marker = "o" if len(values) < 20 else None
            style: dict[str, Any] = {"color": f"C{color}", "linewidth": 1.6, "marker": marker, "markersize": 3}
            axes.plot(steps, smooth, label=term.replace("_", " "), **style)
        ends = [abs(_smooth(values)[-1]) for _, values in curves.values()]
        if max(ends) > 20 * min(ends):  # a small term next to a large one would look like zero
            axes.set_yscale("symlog", linthresh=0.1)
        axes.set_title(panel)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    with atomic_write(file, sync=False) as [unfinished]:
        figure.savefig(unfinished, dpi=100, format="png")
