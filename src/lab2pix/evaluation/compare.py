"""Several reports side by side, as in the paper's Table 5: means and deviations over seeds of training and noise."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from lab2pix.atomic import write_atomically
from lab2pix.errors import DataError, OutputError
from lab2pix.evaluation.html import picture, score_title, spread, write_html
from lab2pix.evaluation.report import higher_is_better, mean_and_std, read_report

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
    "labels",
    "real",
    "count",
)
"""What must be alike for two scores to be comparable."""
_ELSEWHERE = {"folder", "root", "statistics"}  # where files lie makes no difference


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
        """Return which method does best."""
        held = {name: cells[score].mean for name, cells in self.rows.items() if score in cells}
        return (max if higher_is_better(score) else min)(held, key=lambda name: held[name])

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
        there = [name for name in ("compare.md", "compare.html", "compare.png") if (folder / name).exists()]
        if there and not overwrite:
            raise OutputError(f"{folder / there[0]} is there already; choose another folder, or --overwrite it")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / "compare.md", self.markdown() + "\n")
            self._plot(folder / "compare.png")
            write_html(folder / "compare.html", "Scores side by side", self._body(folder / "compare.png"))
        except OSError as error:
            raise OutputError(f"cannot write {folder} ({error.strerror or error}); choose another folder") from error
        return folder

    def _body(self, plot: Path) -> str:
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
        with Image.open(plot) as image:
            shown = picture(image, "The same scores as bars with deviations", longest=1400).replace(
                "<img", '<img class="plot"'
            )
        return (
            f"<h1>Scores side by side</h1><p class='soft'>Mean ± standard deviation over every sample set of every "
            "report; ↑ higher is better, ↓ lower is better; the best of each column in bold.</p>"
            f"{notes}{table}<h2>Plot</h2>{shown}"
        )

    def _plot(self, file: Path) -> None:
        """Draw each score as bars with deviations."""
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
            axes.set_yticks(range(len(names)), names if place % columns == 0 else [""] * len(names), fontsize=8)
            axes.invert_yaxis()
            axes.set_title(f"{score} {'↑' if higher_is_better(score) else '↓'}", fontsize=9)
            axes.tick_params(axis="x", labelsize=7)
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(file)


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
        by_name.setdefault(str(report["name"]), []).append(report)
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
        mine = _part(first[1], key)
        for path, report in others:
            theirs = _part(report, key)
            if mine != theirs:
                found.append(f"'{key}' is {_short(mine)} in {first[0]} but {_short(theirs)} in {path}")
                break
    return found


def _part(report: Mapping[str, Any], key: str) -> Any:
    protocol = report["protocol"]
    value = protocol.get("generated", {}).get("count") if key == "count" else protocol.get(key)
    return {name: part for name, part in value.items() if name not in _ELSEWHERE} if isinstance(value, dict) else value


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 80 else f"{text[:77]}..."
