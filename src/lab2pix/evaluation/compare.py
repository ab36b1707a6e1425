"""Several reports side by side, as in the paper's Table 5: means and deviations over seeds of training and noise."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

from lab2pix.errors import DataError, OutputError
from lab2pix.evaluation.report import higher_is_better, mean_and_std, read_report
from lab2pix.reporting.html import html_document, picture, score_title, spread
from lab2pix.utils.files import UNFINISHED, escape_surrogates, sync_file

__all__ = ["Comparison", "compare"]

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
)
"""What must be alike for two scores to be comparable."""
_ELSEWHERE = {"folder", "root", "statistics", "run", "step", "seed"}  # who drew and where files lie makes no difference
_OF_RUNS = {"layout", "split"}  # what a folder of pictures cannot tell
FILES = ("compare.md", "compare.html", "compare.png")
_FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Source Han Sans", "WenQuanYi Zen Hei", "IPAGothic", "Unifont")
"""Fonts for names that Matplotlib's own one cannot write, where they are installed."""


@dataclass(frozen=True)
class Cell:
    """A method's score over all its reports.

    Attributes:
        mean, std: over `count` values: each sample set of each report; None for the deviation of one value.
    """

    mean: float
    std: float | None
    count: int


@dataclass(frozen=True)
class Comparison:
    """Methods by scores.

    Attributes:
        scores: names of the columns.
        rows: each method's cells by score; a score that a method lacks is missing.
        reports: how many reports each method has.
        differences: what the protocols do not have in common, in words.
    """

    scores: list[str]
    rows: dict[str, dict[str, Cell]]
    reports: dict[str, int]
    differences: list[str]

    def best(self, score: str) -> str:
        """Return which method does best; the empty name where none has the score."""
        held = {name: cells[score].mean for name, cells in self.rows.items() if score in cells}
        return (max if higher_is_better(score) else min)(held, key=lambda name: held[name], default="")

    def markdown(self) -> str:
        """Return the table, the best of each column in bold."""
        heads = [f"{score} {'↑' if higher_is_better(score) else '↓'}" for score in self.scores]
        lines = [f"| method | reports | {' | '.join(heads)} |", "|---|---:|" + "---:|" * len(heads)]
        best = {score: self.best(score) for score in self.scores}
        for name, cells in self.rows.items():
            texts = [self._text(cells.get(score), bold=best[score] == name, mark="**") for score in self.scores]
            lines.append(f"| {name.replace('|', '/')} | {self.reports[name]} | {' | '.join(texts)} |")
        return "\n".join([*lines, *(f"\nNot alike: {text}." for text in self.differences)])

    @staticmethod
    def _text(cell: Cell | None, *, bold: bool, mark: str) -> str:
        if cell is None:
            return "–"
        text = spread(cell.mean, cell.std)
        return f"{mark}{text}{mark}" if bold else text

    @staticmethod
    def _lines(cell: Cell | None) -> str:
        """Return a cell of the page: the deviation on a line of its own, so that many columns have room."""
        if cell is None:
            return "–"
        return (
            f"{spread(cell.mean, cell.std, '<br><small>')}</small>" if cell.std is not None else spread(cell.mean, None)
        )

    def write(self, folder: Path | str, *, overwrite: bool = False) -> Path:
        """Write `compare.md`, `compare.html` and `compare.png`.

        Raises:
            OutputError: a comparison is there already, or the folder cannot be written.
        """
        folder = Path(folder)
        there = [folder / name for name in FILES if (folder / name).exists()]
        if there and not overwrite:
            raise OutputError(f"{there[0]} is there already; choose another folder, or --overwrite it")
        if folders := [file for file in there if file.is_dir()]:
            raise OutputError(f"{folders[0]} is a folder, but would be a file; choose another --out")
        plot = self._plot()
        page = html_document("Scores side by side", self._body(plot))
        texts = dict(zip(FILES, (f"{self.markdown()}\n".encode(), page.encode(), plot), strict=True))
        unfinished = {name: folder / f"{UNFINISHED}{name}" for name in FILES}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, file in unfinished.items():
                file.write_bytes(texts[name])
                sync_file(file)
            for name, file in unfinished.items():
                file.replace(folder / name)
        except OSError as error:
            raise OutputError(f"cannot write {folder} ({error.strerror or error}); choose another folder") from error
        finally:
            if folder.is_dir():
                for file in unfinished.values():
                    file.unlink(missing_ok=True)
        return folder

    def _body(self, plot: bytes) -> str:
        from PIL import Image

        best = {score: self.best(score) for score in self.scores}
        heads = "".join(
            f'<th class="number wrap" title="{escape(score_title(score))}">{escape(score).replace("_", "_<wbr>")} '
            f"{'↑' if higher_is_better(score) else '↓'}</th>"
            for score in self.scores
        )
        rows = []
        for name, cells in self.rows.items():
            texts = "".join(
                f'<td class="number{" best" if best[score] == name else ""}">{self._lines(cells.get(score))}</td>'
                for score in self.scores
            )
            rows.append(
                f'<tr><th scope="row">{escape(name)}</th><td class="number">{self.reports[name]}</td>{texts}</tr>'
            )
        table = (
            f'<div class="scroll"><table><thead><tr><th>method</th><th class="number">reports</th>{heads}</tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div>"
        )
        notes = "".join(f'<p class="note">Not alike: {escape(text)}.</p>' for text in self.differences)
        with Image.open(BytesIO(plot)) as image:
            shown = picture(image, "The same scores as bars with deviations", longest=1400).replace(
                "<img", '<img class="plot"'
            )
        return (
            f"<h1>Scores side by side</h1><p class='soft'>Mean ± standard deviation over every sample set of every "
            "report; ↑ higher is better, ↓ lower is better; the best of each column in bold.</p>"
            f"{notes}{table}<h2>Plot</h2>{shown}"
        )

    def _plot(self) -> bytes:
        """Draw each score as bars with deviations: a PNG. What no font can write is a box there; the table has it."""
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
            colors = ["#2f6fb2" if name == best else "#9fb6cc" for name in names]
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
    """Put reports side by side; those of one name are one method, such as several seeds of its training.

    Args:
        reports: files of `lab2pix evaluate`.
        allow_different: go on where the protocols differ, and say so.

    Raises:
        DataError: no reports, one that cannot be read, or protocols that differ.
    """
    if not reports:
        raise DataError("there is nothing to compare; give reports of `lab2pix evaluate`")
    read = {str(path): read_report(path) for path in reports}
    differences = _differences(read)
    if differences and not allow_different:
        raise DataError(
            f"the reports were not made alike: {differences[0]}; evaluate in the same way, or --allow-different"
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
    """Join the values that a method's sample sets have, in all its reports."""
    found = [report["scores"][score] for report in group if score in report["scores"]]
    values = [value for one in found for value in one["values"]]
    return Cell(*mean_and_std(values), len(values)) if values else None


def _differences(reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    first, *others = reports.items()
    found = []
    for key in _PROTOCOL:
        mine = first[1]["protocol"].get(key)
        for path, report in others:
            theirs = report["protocol"].get(key)
            different = next((name for name in _names(mine, theirs) if _get(mine, name) != _get(theirs, name)), None)
            if different is not None:
                called = f"{key}.{different}" if different else key
                values = [_short(_get(part, different)) for part in (mine, theirs)]
                found.append(f"'{called}' is {values[0]} in {first[0]} but {values[1]} in {path}")
                break
    return found


def _names(mine: Any, theirs: Any) -> list[str]:
    """Return what must be alike in two entries; the empty name is an entry as a whole."""
    if not (isinstance(mine, dict) and isinstance(theirs, dict)):
        return [""]
    both = mine.keys() | theirs.keys()
    return sorted(both - _ELSEWHERE - (_OF_RUNS - (mine.keys() & theirs.keys())))


def _get(value: Any, name: str) -> Any:
    return value.get(name) if name else value


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 80 else f"{text[:77]}..."
