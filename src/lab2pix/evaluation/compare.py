"""Comparison of reports, as in Table 5: means and deviations over seeds of training and noise."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from lab2pix.errors import DataError, OutputError
from lab2pix.evaluation.report import mean_and_std, read_report
from lab2pix.reporting.html import inline_image, render, spread
from lab2pix.reporting.scores import higher_is_better
from lab2pix.utils.files import atomic_write, escape_surrogates, output_errors

_PROTOCOL = (
    "features",
    "kernel",
    "segmenter",
    "lpips",
    "size",
    "resize",
    "ssim",
    "sample_sets",
    "generated",
    "labels",
    "real",
    "style_from",
)
"""Entries of the protocol that must be equal for scores to be comparable."""
_ELSEWHERE = {"folder", "root", "statistics", "run", "step", "seed"}  # these make no difference
_OF_RUNS = {"format", "split"}  # unknown for folders of images
FILES = ("compare.md", "compare.html", "compare.png")
_FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Source Han Sans", "WenQuanYi Zen Hei", "IPAGothic", "Unifont")
"""Fonts for names that Matplotlib's own font cannot show, where they are installed."""


@dataclass(frozen=True)
class Cell:
    """A method's score over all its reports.

    Attributes:
        mean, std: mean and deviation over the values; the deviation of a single value is None.
        count: number of values, one per sample set of each report.
    """

    mean: float
    std: float | None
    count: int


@dataclass(frozen=True)
class Comparison:
    """Methods by scores.

    Attributes:
        scores: names of the columns.
        rows: cells by method and score.
        reports: number of reports of each method.
        differences: sentences on differences between the protocols.
    """

    scores: list[str]
    rows: dict[str, dict[str, Cell]]
    reports: dict[str, int]
    differences: list[str]

    def best(self, score: str) -> str:
        """Return the best method; an empty string where none has the score."""
        held = {name: cells[score].mean for name, cells in self.rows.items() if score in cells}
        return (max if higher_is_better(score) else min)(held, key=lambda name: held[name], default="")

    def markdown(self) -> str:
        """Return the table, the best of each column in bold."""
        heads = [f"{score} {'↑' if higher_is_better(score) else '↓'}" for score in self.scores]
        lines = [f"| method | reports | {' | '.join(heads)} |", "|---|---:|" + "---:|" * len(heads)]
        best = {score: self.best(score) for score in self.scores}
        for name, cells in self.rows.items():
            texts = []
            for score in self.scores:
                text = spread(cells[score].mean, cells[score].std) if score in cells else "–"
                texts.append(f"**{text}**" if best[score] == name else text)
            lines.append(f"| {name.replace('|', '/')} | {self.reports[name]} | {' | '.join(texts)} |")
        return "\n".join([*lines, *(f"\nDifferent: {text}." for text in self.differences)])

    def write(self, folder: Path | str, *, overwrite: bool = False) -> Path:
        """Write `compare.md`, `compare.html` and `compare.png`.

        Raises:
            OutputError: a comparison exists already, or the folder cannot be written.
        """
        folder = Path(folder)
        there = [folder / name for name in FILES if (folder / name).exists()]
        if there and not overwrite:
            raise OutputError(f"{there[0]} is there already; choose another folder, or --overwrite it")
        if folders := [file for file in there if file.is_dir()]:
            raise OutputError(f"{folders[0]} is a folder, but would be a file; choose another --out")
        plot = self._plot()
        page = self._page(plot)
        texts = [f"{self.markdown()}\n".encode(), page.encode(), *([] if plot is None else [plot])]
        files = [folder / name for name in FILES[: len(texts)]]
        with output_errors(folder, "choose another folder"), atomic_write(*files) as unfinished:
            for file, text in zip(unfinished, texts, strict=True):
                file.write_bytes(text)
        return folder

    def _page(self, plot: bytes | None) -> str:
        if plot is None:
            return render("comparison.html", title="Comparison of scores", table=self, plot=None)
        with Image.open(BytesIO(plot)) as image:
            shown = inline_image(image, "The same scores as bars with deviations", longest=1400, css="plot")
        return render("comparison.html", title="Comparison of scores", table=self, plot=shown)

    def _plot(self) -> bytes | None:
        """Return a PNG of each score as bars with deviations; None without the extra `plots`.

        Characters without a font are boxes.
        """
        if find_spec("matplotlib") is None:
            return None
        from matplotlib import font_manager, rc_context

        installed = {entry.name for entry in font_manager.fontManager.ttflist}
        fonts = ["DejaVu Sans", *(name for name in _FONTS if name in installed)]
        with rc_context({"font.family": fonts}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")
            return self._drawn()

    def _drawn(self) -> bytes:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        columns = min(3, len(self.scores))
        lines = math.ceil(len(self.scores) / columns)
        names = list(self.rows)
        layout = ConstrainedLayoutEngine(hspace=0.08, wspace=0.04)
        figure = Figure(figsize=(4.2 * columns, (0.34 * len(names) + 1.1) * lines), dpi=120, layout=layout)
        FigureCanvasAgg(figure)
        for place, score in enumerate(self.scores):
            axes = figure.add_subplot(lines, columns, place + 1)
            cells = [self.rows[name].get(score) for name in names]
            means = [math.nan if cell is None else cell.mean for cell in cells]
            errors = [0.0 if cell is None or cell.std is None else cell.std for cell in cells]
            best = self.best(score)
            colors = ["#2f6f6a" if name == best else "#a9c5c2" for name in names]
            axes.barh(range(len(names)), means, xerr=errors, color=colors, ecolor="#444444", capsize=2)
            # Names are not formulas, whatever dollars they hold.
            shown = names if place % columns == 0 else [""] * len(names)
            axes.set_yticks(range(len(names)), shown, fontsize=8, parse_math=False)
            axes.invert_yaxis()
            axes.set_title(f"{score} {'↑' if higher_is_better(score) else '↓'}", fontsize=9)
            axes.tick_params(axis="x", labelsize=7)
            axes.spines[["top", "right"]].set_visible(False)
        buffer = BytesIO()
        figure.savefig(buffer, format="png")
        return buffer.getvalue()


def compare(reports: Sequence[Path | str], *, allow_different: bool = False) -> Comparison:
    """Compare reports; those of one name are one method, such as several seeds of its training.

    With `allow_different`, differences between the protocols are listed instead of refused.

    Raises:
        DataError: no reports, one that cannot be read, or protocols that differ.
    """
    if not reports:
        raise DataError("there is nothing to compare; give reports of `lab2pix evaluate`")
    read = {str(path): read_report(path) for path in reports}
    differences = _differences(read)
    if differences and not allow_different:
        raise DataError(
            f"the reports have different protocols: {differences[0]}; evaluate alike, or add --allow-different"
        )
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for report in read.values():
        by_name.setdefault(escape_surrogates(report["name"]), []).append(report)
    scores = list(dict.fromkeys(score for report in read.values() for score in report["scores"]))
    rows = {
        name: {score: cell for score in scores if (cell := _cell(group, score)) is not None}
        for name, group in by_name.items()
    }
    return Comparison(scores, rows, {name: len(group) for name, group in by_name.items()}, differences)


def _cell(group: Sequence[Mapping[str, Any]], score: str) -> Cell | None:
    """Return the score of a method over all sample sets of all its reports."""
    found = [report["scores"][score] for report in group if score in report["scores"]]
    values = [value for one in found for value in one["values"]]
    return Cell(*mean_and_std(values), len(values)) if values else None


def _differences(reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    first, *others = reports.items()
    found = []
    for key in _PROTOCOL:
        mine = _entry(first[1], key)
        for path, report in others:
            theirs = _entry(report, key)
            different = next((name for name in _names(mine, theirs) if _get(mine, name) != _get(theirs, name)), None)
            if different is not None:
                called = f"{key}.{different}" if different else key
                values = [_short(_get(part, different)) for part in (mine, theirs)]
                found.append(f"'{called}' is {values[0]} in {first[0]} but {values[1]} in {path}")
                break
    return found


def _entry(report: Mapping[str, Any], key: str) -> Any:
    """Return an entry of the protocol; style from noise is comparable with methods without style, and with folders."""
    value = report["protocol"].get(key)
    return None if key == "style_from" and value == "noise" else value


def _names(mine: Any, theirs: Any) -> list[str]:
    """Return the keys that must be equal in two entries; the empty string stands for the complete entry."""
    if not (isinstance(mine, dict) and isinstance(theirs, dict)):
        return [""]
    both = mine.keys() | theirs.keys()
    return sorted(both - _ELSEWHERE - (_OF_RUNS - (mine.keys() & theirs.keys())))


def _get(value: Any, name: str) -> Any:
    return value.get(name) if name else value


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 80 else f"{text[:77]}..."
