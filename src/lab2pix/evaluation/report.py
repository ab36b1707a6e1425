"""What an evaluation found, and how: a JSON file that others can check, and a table for the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal

from lab2pix.errors import DataError, OutputError
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.files import escape_surrogates

__all__ = [
    "REPORT_FORMAT",
    "Over",
    "Report",
    "ReportImage",
    "Score",
    "check_output_path",
    "check_writable",
    "higher_is_better",
    "mean_and_std",
    "read_report",
]


REPORT_FORMAT = "lab2pix-report/1"
Over = Literal["sample sets", "pictures", "label maps"]
_LOWER = ("fid", "kid", "frechet_", "kernel_", "lpips")


def higher_is_better(name: str) -> bool:
    """Tell in which direction a score improves, by its name."""
    return not name.startswith(_LOWER)


@dataclass(frozen=True)
class Score:
    """One score.

    Attributes:
        mean: the score; None where no value is finite.
        std: standard deviation (n - 1) over what `over` says; None for a single value.
        count: how many values.
        over: sample sets (one value for each noise), pictures, or label maps.
        values: one per sample set.
        extra: what else belongs to it, such as pictures without a finite value.
    """

    mean: float | None
    std: float | None
    count: int
    over: Over
    values: tuple[float, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_sets(cls, values: Sequence[float], **extra: Any) -> Score:
        """Return a score with one value for each sample set."""
        return cls(*mean_and_std(values), len(values), "sample sets", tuple(values), extra)

    @classmethod
    def of_each(cls, sets: Sequence[Sequence[float]], over: Over) -> Score | None:
        """Return a score over pictures or label maps; those without a finite value are counted apart.

        Args:
            sets: the values by sample set.
            over: what each value is of.

        Returns:
            None where there is no value at all.
        """
        finite = [[value for value in values if math.isfinite(value)] for values in sets]
        joined = [value for values in finite for value in values]
        without = sum(map(len, sets)) - len(joined)
        extra = {"not_finite": without} if without else {}
        if not joined:
            return cls(None, None, 0, over, (), extra) if without else None
        means = tuple(mean_and_std(values)[0] for values in finite if values)
        return cls(*mean_and_std(joined), len(joined), over, means, extra)

    def to_dict(self, name: str) -> dict[str, Any]:
        """Return plain values for the JSON."""
        better = "higher" if higher_is_better(name) else "lower"
        plain = {"mean": self.mean, "std": self.std, "count": self.count, "over": self.over, "better": better}
        return {**plain, "values": list(self.values), **self.extra}


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the standard deviation (n - 1), None for a single value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


@dataclass(frozen=True)
class ReportImage:
    """A picture on the report's sheet.

    Attributes:
        name: what it is called.
        score: its own score.
        file, real, label: where it lies, its photo and its label map; None where there is none.
    """

    name: str
    score: float
    file: str
    real: str | None = None
    label: str | None = None


@dataclass
class Report:
    """What an evaluation found.

    Attributes:
        name: of the method that was judged.
        scores: by name.
        protocol: everything that a score depends on.
        classes: each class's `name`, `iou`, `accuracy`, `pixels`; empty without a segmenter.
        left_out: classes that neither label maps nor readings hold.
        pictures: `by` which score, and the `best`, `median` and `worst` pictures.
        broken: files that could not be read, with the reason.
        unmatched: names without a partner that were left out.
        notes: what a reader of the scores should know.
        space: what the label maps hold, to show them in colours; not part of the file.
    """

    name: str
    scores: dict[str, Score]
    protocol: dict[str, Any]
    classes: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    pictures: dict[str, Any] = field(default_factory=dict)
    broken: list[dict[str, str]] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    space: LabelSpace | None = None

    def to_dict(self, *, raw: bool = False) -> dict[str, Any]:
        """Return what the JSON file holds.

        Args:
            raw: leave names of files as they are, so that these can be opened, though JSON cannot hold them all.
        """
        plain = {key: getattr(self, key) for key in ("classes", "left_out", "broken", "unmatched", "notes", "protocol")}
        pictures = {
            key: [asdict(item) for item in value] if isinstance(value, list) else value
            for key, value in self.pictures.items()
        }
        scores = {name: score.to_dict(name) for name, score in self.scores.items()}
        whole = {"format": REPORT_FORMAT, "name": self.name, "scores": scores, **plain, "pictures": pictures}
        return whole if raw else _printable_parts(whole)

    def __str__(self) -> str:
        """Return the scores as lines, and what a reader should know."""
        width = max(map(len, self.scores), default=0)
        lines = []
        for name, score in self.scores.items():
            spread = "" if score.std is None else f" ± {score.std:.4g}"
            number = "–" if score.mean is None else f"{score.mean:.{4 if abs(score.mean) < 10 else 2}f}"
            over = score.over if score.count != 1 else score.over.removesuffix("s")
            without = f", {score.extra['not_finite']} not finite" if "not_finite" in score.extra else ""
            lines.append(f"{name:<{width}}  {number}{spread}  ({score.count} {over}{without})")
        if self.left_out:
            lines.append(f"classes that neither label maps nor readings hold: {', '.join(self.left_out)}")
        lines += [f"left out: {item['file']}: {item['reason']}" for item in self.broken]
        if self.unmatched:
            lines.append(f"{len(self.unmatched)} without partner left out, such as {self.unmatched[0]}")
        return escape_surrogates("\n".join([*lines, *self.notes]))


def check_output_path(path: Path | str, *, overwrite: bool) -> Path:
    """Return a report's path.

    Raises:
        OutputError: it is no `.json`, it or its page is there already, or nothing can be written there.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise OutputError(f"{path} does not end in .json, as a report does (its page lies beside it, in .html)")
    for file in (path, path.with_suffix(".html")):
        if file.is_dir():
            raise OutputError(f"{file} is a folder, but the report would be a file of that name; choose another name")
        if file.exists() and not overwrite:
            raise OutputError(f"{file} is there already; choose another name, or --overwrite it")
    check_writable(path)
    return path


def check_writable(file: Path) -> None:
    """Try whether a file could be written, before there is something to write; nothing is left behind.

    Raises:
        OutputError: it could not.
    """
    folder = file.absolute().parent
    while not folder.exists():
        folder = folder.parent
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"cannot write {file} ({error.strerror or error}); choose another place") from error


def _printable_parts(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {escape_surrogates(key): _printable_parts(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_printable_parts(part) for part in value]
    return escape_surrogates(value) if isinstance(value, str) else value


def read_report(path: Path | str) -> dict[str, Any]:
    """Read a report's JSON.

    Raises:
        DataError: the file holds none.
    """
    try:
        report: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as a report ({reason}); give a file of `lab2pix evaluate`") from error
    if not isinstance(report, dict) or report.get("format") != REPORT_FORMAT:
        raise DataError(f"{path} is no report of `lab2pix evaluate` ({REPORT_FORMAT}); give one")
    wrong = _wrong_part(report)
    if wrong is not None:
        raise DataError(f"{path} is no whole report of `lab2pix evaluate`: {wrong}; make it anew")
    return report


def _wrong_part(report: Mapping[str, Any]) -> str | None:
    """Return what a report lacks to be compared with others."""
    if not isinstance(report.get("name"), str):
        return "it has no 'name'"
    if not isinstance(report.get("protocol"), dict):
        return "it has no 'protocol'"
    scores = report.get("scores")
    if not isinstance(scores, dict) or not scores:
        return "it has no 'scores'"
    for name, score in scores.items():
        values = score.get("values") if isinstance(score, dict) else None
        if not isinstance(values, list) or not all(map(_is_number, values)):
            return f"its score '{name}' has no list of numbers as 'values'"
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
