"""Evaluation report: scores with their protocol, as JSON file and as text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any, Literal, TypedDict

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from lab2pix.errors import DataError, OutputError
from lab2pix.evaluation.page import write_page
from lab2pix.labels.space import LabelSpace
from lab2pix.reporting.scores import higher_is_better
from lab2pix.utils.files import escape_surrogates, output_errors, write_atomically
from lab2pix.utils.text import reason_of

REPORT_FORMAT = "lab2pix-report/1"
Over = Literal["sample sets", "images", "label maps"]


@dataclass(frozen=True)
class Score:
    """One score.

    Attributes:
        mean: the score; None where no value is finite.
        std: standard deviation (n - 1); None for a single value.
        count: number of values.
        over: what mean and deviation are over: sample sets, images or label maps.
        values: one per sample set.
        extra: further entries, such as the number of values that are not finite.
    """

    mean: float | None
    std: float | None
    count: int
    over: Over
    values: tuple[float, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_sets(cls, values: Sequence[float], **extra: Any) -> Score:
        """Return a score with one value per sample set."""
        return cls(*mean_and_std(values), len(values), "sample sets", tuple(values), extra)

    @classmethod
    def of_each(cls, sets: Sequence[Sequence[float]], over: Over) -> Score | None:
        """Return a score over images or label maps; values that are not finite are counted separately.

        Args:
            sets: the values by sample set.
            over: unit of the values.

        Returns:
            The score; None without any value.
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
    """An image of the report.

    Attributes:
        name: name of its sample.
        score: its score.
        file, real, label: paths of the image, its photo and its label map; None where there is none.
    """

    name: str
    score: float
    file: str
    real: str | None = None
    label: str | None = None


class ReportFiles(TypedDict, total=False):
    """Fields of a `ReportImage` that name it and its files."""

    name: str
    file: str
    real: str | None
    label: str | None


@dataclass
class Report:
    """Result of an evaluation.

    Attributes:
        name: name of the evaluated method.
        scores: scores by name.
        protocol: everything that a score depends on.
        classes: `name`, `iou`, `accuracy`, `pixels` of each class; empty without a segmenter.
        left_out: classes that occur in neither label maps nor predictions.
        pictures: `by` which score images are ranked, and the `best`, `median` and `worst` ones.
        broken: files that cannot be read, with the reason.
        unmatched: names without a partner that were left out.
        notes: remarks on the reliability of the scores.
        space: label space of the label maps, to color them; not part of the file.
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

    def show(self, files: Callable[[str], ReportFiles]) -> None:
        """Add their files to the best, median and worst images.

        Args:
            files: returns the files of a sample, and its name where that is another one.
        """
        for group, items in self.pictures.items():
            if group != "by":
                self.pictures[group] = [replace(item, **files(item.name)) for item in items]

    def to_dict(self, *, raw: bool = False) -> dict[str, Any]:
        """Return the content of the JSON file.

        Args:
            raw: keep names of files that are not valid UTF-8, so that they can be opened; JSON cannot store them.
        """
        plain = {key: getattr(self, key) for key in ("classes", "left_out", "broken", "unmatched", "notes", "protocol")}
        pictures = {
            key: [asdict(item) for item in value] if isinstance(value, list) else value
            for key, value in self.pictures.items()
        }
        scores = {name: score.to_dict(name) for name, score in self.scores.items()}
        whole = {"format": REPORT_FORMAT, "name": self.name, "scores": scores, **plain, "pictures": pictures}
        return whole if raw else _printable_parts(whole)

    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write the report as JSON, and its page next to it (same name, `.html`).

        The path ends in `.json`.

        Raises:
            OutputError: the report exists already, or cannot be written.
        """
        path = check_output_path(path, overwrite=overwrite)
        with output_errors(path, "choose another place"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
            write_page(self.to_dict(raw=True), path.with_suffix(".html"), self.space)
        return path

    def __str__(self) -> str:
        """Return the scores as lines, with the notes."""
        width = max(map(len, self.scores), default=0)
        lines = []
        for name, score in self.scores.items():
            spread = "" if score.std is None else f" ± {score.std:.4g}"
            number = "–" if score.mean is None else f"{score.mean:.{4 if abs(score.mean) < 10 else 2}f}"
            over = score.over if score.count != 1 else score.over.removesuffix("s")
            without = f", {score.extra['not_finite']} not finite" if "not_finite" in score.extra else ""
            lines.append(f"{name:<{width}}  {number}{spread}  ({score.count} {over}{without})")
        if self.left_out:
            lines.append(f"classes in neither label maps nor predictions: {', '.join(self.left_out)}")
        lines += [f"left out: {item['file']}: {item['reason']}" for item in self.broken]
        if self.unmatched:
            lines.append(f"{len(self.unmatched)} without partner left out, such as {self.unmatched[0]}")
        return escape_surrogates("\n".join([*lines, *self.notes]))


def check_output_path(path: Path | str, *, overwrite: bool) -> Path:
    """Return a report's path.

    Raises:
        OutputError: it does not end in `.json`, the report or its page exists, or it cannot be written.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise OutputError(f"{path} does not end in .json, as a report must (its page is written next to it, as .html)")
    for file in (path, path.with_suffix(".html")):
        if file.is_dir():
            raise OutputError(f"{file} is a folder, but the report would be a file of that name; choose another name")
        if file.exists() and not overwrite:
            raise OutputError(f"{file} is there already; choose another name, or --overwrite it")
    check_writable(path)
    return path


def picture_folder(path: Path, *, overwrite: bool) -> Path:
    """Return the folder next to a report of a run in which its images are written.

    Raises:
        OutputError: it exists already.
    """
    folder = path.with_name(f"{path.stem}-pictures")
    if folder.exists() and not overwrite:
        raise OutputError(f"{folder} is there already; choose another name for the report, or --overwrite it")
    return folder


def check_writable(file: Path) -> None:
    """Check before a long computation that its file can be written.

    Raises:
        OutputError: it cannot.
    """
    folder = file.absolute().parent
    while not folder.exists():
        folder = folder.parent
    with output_errors(file, "choose another place"), TemporaryFile(dir=folder):
        pass


def _printable_parts(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {escape_surrogates(key): _printable_parts(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_printable_parts(part) for part in value]
    return escape_surrogates(value) if isinstance(value, str) else value


class _StoredScore(BaseModel):
    values: list[FiniteFloat]


class _StoredReport(BaseModel):
    """Parts of a report that a comparison with others needs."""

    name: str
    protocol: dict[str, Any]
    scores: Annotated[dict[str, _StoredScore], Field(min_length=1)]


def read_report(path: Path | str) -> dict[str, Any]:
    """Read the JSON file of a report.

    Raises:
        DataError: the file is not a report.
    """
    try:
        report: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as a report ({reason_of(error)}); give a file of `lab2pix evaluate`"
        ) from error
    if not isinstance(report, dict) or report.get("format") != REPORT_FORMAT:
        raise DataError(f"{path} is not a report of `lab2pix evaluate` ({REPORT_FORMAT}); give one")
    try:
        _StoredReport.model_validate(report, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{path} is not a complete report of `lab2pix evaluate` ('{key}': {first['msg']}); evaluate again"
        ) from error
    return report
