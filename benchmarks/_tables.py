"""Tables and sheets of a comparison: Markdown, LaTeX, CSV, and images side by side."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from _runs import cell
from PIL import Image

from lab2pix.reporting.grid import image_grid

__all__ = ["COLUMNS", "Column", "Rows", "comma_separated", "latex", "markdown", "side_by_side"]

Rows: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Scores and costs by method: a mapping with `mean` and `std`, a number, or a text; what is missing is a dash."""


@dataclass(frozen=True)
class Column:
    """Column of a table.

    Attributes:
        title: its title.
        digits: decimals.
        better: whether higher or lower values are better; "": neither, so none is in bold.
    """

    title: str
    digits: int = 0
    better: str = ""


COLUMNS = {
    "data": Column("data"),
    "ppa": Column("PPA", 3, "higher"),
    "pca": Column("PCA", 3, "higher"),
    "ciou": Column("C-IoU", 3, "higher"),
    "psnr": Column("PSNR", 2, "higher"),
    "ssim": Column("SSIM", 3, "higher"),
    "frechet_efficientnet_lite0": Column("Fréchet", 1, "lower"),
    "kernel_efficientnet_lite0": Column("Kernel", 2, "lower"),
    "frechet_segmenter": Column("Fréchet, judge", 2, "lower"),
    "kernel_segmenter": Column("Kernel, judge", 3, "lower"),
    "checkerboard": Column("checkerboard", 3, "higher"),
    "discriminator_real": Column("D, real", 3),
    "discriminator_fake": Column("D, fake", 3),
    "shuffled_ppa": Column("PPA, shuffled", 3),
    "steps": Column("steps"),
    "step_s": Column("step (s)", 2),
    "step_plain_s": Column("step, plain (s)", 2),
    "image_fast_s": Column("image, fast (s)", 3),
    "image_s": Column("image (s)", 3),
    "step_mib": Column("memory (MiB)"),
    "generator_m": Column("generator (M)", 2),
    "time_ratio": Column("time ratio", 2),
}
"""Known columns by name of the score or cost."""


def _mean(value: Any) -> float | None:
    found = value["mean"] if isinstance(value, Mapping) else value
    return found if isinstance(found, int | float) else None


def _best(rows: Rows, name: str) -> set[str]:
    """Return the methods with the best value of a column; rows that are `reference` do not take part."""
    better = COLUMNS[name].better
    values = {row: _mean(own.get(name)) for row, own in rows.items() if not own.get("reference")}
    known = {row: value for row, value in values.items() if value is not None}
    if not better or len(known) < 2:
        return set()
    best = (max if better == "higher" else min)(known.values())
    return {row for row, value in known.items() if value == best}


def _text(value: Any, digits: int) -> str:
    if value is None:
        return "–"
    if isinstance(value, Mapping):
        return cell(value, digits)
    return value if isinstance(value, str) else f"{value:,.{digits}f}"


def markdown(rows: Rows, columns: Sequence[str]) -> str:
    """Return a table with the best of each column in bold.

    Args:
        rows: values by method.
        columns: names in `COLUMNS`.
    """
    best = {name: _best(rows, name) for name in columns}
    lines = [f"| method | {' | '.join(COLUMNS[name].title for name in columns)} |", "|---|" + "---:|" * len(columns)]
    for row, own in rows.items():
        texts = [(name, _text(own.get(name), COLUMNS[name].digits)) for name in columns]
        cells = [f"**{text}**" if row in best[name] else text for name, text in texts]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


_LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "±": r"$\pm$", "–": "--", "é": r"\'e"}


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def latex(rows: Rows, columns: Sequence[str], caption: str) -> str:
    """Return the same table in LaTeX, for the package `booktabs`.

    Args:
        rows: values by method.
        columns: names in `COLUMNS`.
        caption: text above the table.
    """
    best = {name: _best(rows, name) for name in columns}
    arrows = {"higher": r" $\uparrow$", "lower": r" $\downarrow$", "": ""}
    titles = [_latex_text(COLUMNS[name].title) + arrows[COLUMNS[name].better] for name in columns]
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{_latex_text(caption)}}}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule", rf"Method & {' & '.join(titles)} \\"]
    lines.append(r"\midrule")
    for row, own in rows.items():
        texts = [(name, _latex_text(_text(own.get(name), COLUMNS[name].digits))) for name in columns]
        cells = [rf"\textbf{{{text}}}" if row in best[name] else text for name, text in texts]
        lines.append(rf"{_latex_text(row)} & {' & '.join(cells)} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def comma_separated(rows: Rows, columns: Sequence[str]) -> str:
    """Return the table as CSV: unrounded values under their names in `COLUMNS`, a spread as a column `NAME_std`.

    Args:
        rows: values by method.
        columns: names in `COLUMNS`.
    """
    cells: dict[str, dict[str, Any]] = {}
    for row, own in rows.items():
        cells[row] = {"method": row}
        for name in columns:
            value = own.get(name)
            spread = value if isinstance(value, Mapping) else {"mean": value}
            cells[row] |= {name: spread["mean"]} | ({f"{name}_std": spread["std"]} if "std" in spread else {})
    used = {key for own in cells.values() for key in own}
    header = ["method", *(key for name in columns for key in (name, f"{name}_std") if key in used)]
    written = io.StringIO()
    table = csv.DictWriter(written, header, lineterminator="\n")
    table.writeheader()
    table.writerows(cells.values())
    return written.getvalue()


def side_by_side(columns: Mapping[str, Sequence[Image.Image]], width: int = 128) -> Image.Image:
    """Return a sheet with one column per title.

    Args:
        columns: images of one size by title; all columns have as many.
        width: of each image in the sheet, at least; smaller ones are enlarged by nearest neighbor.
    """
    first = next(iter(columns.values()))[0]
    zoom = -(-width // first.width)
    size = first.width * zoom, first.height * zoom
    rows = zip(*columns.values(), strict=True)
    shown = [[image.resize(size, Image.Resampling.NEAREST) for image in row] for row in rows]
    return image_grid(shown, list(columns))
