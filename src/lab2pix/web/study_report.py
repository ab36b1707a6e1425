"""What a user study says: mean scores, Top1 and Top2 rates as in Table 6, how sure they are, who took part (5.5)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lab2pix
from lab2pix.errors import DataError, OutputError
from lab2pix.utils.extras import import_extra
from lab2pix.utils.files import write_atomically
from lab2pix.web.study_samples import Study
from lab2pix.web.study_store import FILE_NAME, Answers, read_answers

__all__ = ["MethodScore", "Participant", "StudyReport", "Test", "bootstrap_means", "compare_methods", "report_study"]

Scores = NDArray[np.int64]
"""`[rankings, methods]` points: as many as there are methods for the best, 1 for the worst."""

REPORT_FORMAT = "lab2pix-study-report/1"
RESAMPLES = 2000


@dataclass(frozen=True)
class MethodScore:
    """One row of Table 6.

    Attributes:
        name: of the method.
        mean: of the points, from 1 (always the worst) to the number of methods (always the best).
        std: of the points over all rankings, `None` for a single one.
        interval: 95 % bootstrap interval of the mean.
        top1: share of rankings that have it first, 0 to 1.
        top2: share that have it first or second.
        ranks: how often it was ranked first, second, ...
    """

    name: str
    mean: float
    std: float | None
    interval: tuple[float, float]
    top1: float
    top2: float
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Test:
    """A test of the hypothesis that people like all methods equally.

    Attributes:
        name: of the test.
        over: what its blocks are: all rankings, or the participants' mean scores.
        blocks: how many there are.
        statistic: chi-square (Friedman) or W (Wilcoxon).
        p: probability of such a statistic if the hypothesis holds.
        agreement: Kendall's W of a Friedman test, 0 (no agreement among blocks) to 1 (all alike), else `None`.
    """

    __test__ = False  # no test of pytest's

    name: str
    over: str
    blocks: int
    statistic: float
    p: float
    agreement: float | None

    def __str__(self) -> str:
        """Return the test in a line."""
        sign = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"
        symbol = "statistic" if self.agreement is None else "chi-square"
        agreement = "" if self.agreement is None else f", Kendall's W = {self.agreement:.2f}"
        return f"{self.name} over {self.blocks} {self.over}: {symbol} = {self.statistic:.2f}, {sign}{agreement}"


@dataclass(frozen=True)
class Participant:
    """Who took part: the name, how many samples are ranked, of how many, and the median time for one in seconds."""

    name: str
    ranked: int
    samples: int
    median_seconds: float

    @property
    def finished(self) -> bool:
        """Whether all samples are ranked."""
        return self.ranked == self.samples


@dataclass(frozen=True)
class StudyReport:
    """What a study says; printed, it is a table.

    Attributes:
        folder: of the study.
        study: what it consists of.
        rankings: how many count.
        methods: their scores, in the study's order.
        tests: over rankings and, with several participants, over participants.
        participants: in the order of their first answers.
        replaced: answers that were corrected later.
        repeated: lines that repeat an answer and do not count.
        damaged: numbers of the lines of `answers.jsonl` that were skipped.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """

    folder: Path
    study: Study
    rankings: int
    methods: tuple[MethodScore, ...]
    tests: tuple[Test, ...]
    participants: tuple[Participant, ...]
    replaced: int
    repeated: int
    damaged: tuple[int, ...]
    resamples: int
    seed: int

    @property
    def unfinished(self) -> list[Participant]:
        """Participants who have samples left."""
        return [one for one in self.participants if not one.finished]

    def rows(self) -> list[tuple[str, ...]]:
        """Return the cells of Table 6, by method: mean ± std, interval, Top1 and Top2 in percent."""
        return [
            (
                one.name,
                f"{one.mean:.2f}" + ("" if one.std is None else f" ± {one.std:.2f}"),
                f"{one.interval[0]:.2f} to {one.interval[1]:.2f}",
                f"{100 * one.top1:.1f}",
                f"{100 * one.top2:.1f}",
            )
            for one in self.methods
        ]

    def notes(self) -> list[str]:
        """Return what to know beside the table, a line each."""
        lines = [
            f"{_count(self.rankings, 'ranking')} by {_count(len(self.participants), 'participant')}; "
            f"{len(self.methods)} points for the best picture, 1 for the worst"
        ]
        lines += [str(test) for test in self.tests]
        if len(self.participants) == 1:
            lines.append(
                "the interval speaks of one person's taste: with a single participant only samples are redrawn"
            )
        if self.unfinished:
            listed = ", ".join(f"{one.name} ({one.ranked} of {one.samples})" for one in self.unfinished)
            lines.append(f"unfinished, counted as far as they came: {listed}")
        if self.replaced:
            lines.append(f"{_count(self.replaced, 'answer')} corrected later; the last one counts")
        if self.repeated:
            lines.append(f"{_count(self.repeated, 'line')} of {FILE_NAME} repeated, counted once")
        if self.damaged:
            verb = "was" if len(self.damaged) == 1 else "were"
            numbers = ", ".join(str(number) for number in self.damaged)
            lines.append(f"{FILE_NAME}, line {numbers}: cut short, as by a crash, and {verb} skipped")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        study = self.study
        return {
            "format": REPORT_FORMAT,
            "rankings": self.rankings,
            "methods": [{**asdict(one), "count": self.rankings} for one in self.methods],
            "tests": [asdict(test) for test in self.tests],
            "participants": [{**asdict(one), "finished": one.finished} for one in self.participants],
            "replaced": self.replaced,
            "repeated": self.repeated,
            "damaged_lines": list(self.damaged),
            "protocol": {
                "lab2pix": lab2pix.__version__,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "points": f"{len(self.methods)} for the best to 1 for the worst",
                "samples_per_participant": study.samples,
                "pool": len(study.pool),
                "label_space": study.label_space,
                "study_seed": study.seed,
                "study_created": study.created,
                "interval": {"level": 0.95, "over": "participants, then samples", "resamples": self.resamples},
                "seed": self.seed,
            },
        }

    def to_markdown(self) -> str:
        """Return the report as a Markdown table with notes."""
        heads = ["Method", "Mean score", "95 % interval", "Top1 (%)", "Top2 (%)"]
        rows = [[_escape_cell(cell) for cell in row] for row in self.rows()]
        table = [heads, ["---", *["---:"] * 4], *rows]
        lines = ["# User study", "", *(f"| {' | '.join(row)} |" for row in table), ""]
        lines += [f"- {_escape_cell(note)}" for note in self.notes()]
        return "\n".join(lines) + "\n"

    def __str__(self) -> str:
        """Return a table and notes."""
        rows = [("method", "mean score", "95 % interval", "Top1 (%)", "Top2 (%)"), *self.rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
            )
            for row in rows
        ]
        return "\n".join([*lines, "", *self.notes()])

    def save(self, out: Path) -> list[Path]:
        """Write report.json, report.md and report.html into a folder, over those of before.

        Returns:
            The files.

        Raises:
            OutputError: the folder cannot be written, or holds a report of something else.
        """
        from lab2pix.web.study_report_page import report_page

        _refuse_other_report(out)

        texts = {
            "report.json": json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n",
            "report.md": self.to_markdown(),
            "report.html": report_page(self),
        }
        try:
            out.mkdir(parents=True, exist_ok=True)
            for name, text in texts.items():
                write_atomically(out / name, text)
        except OSError as error:
            raise OutputError(f"cannot write the report into {out} ({error.strerror}); choose another --out") from error
        return [out / name for name in texts]


def report_study(folder: Path | str, *, resamples: int = RESAMPLES, seed: int = 0) -> StudyReport:
    """Read a study's answers and judge them.

    Args:
        folder: the study.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        DataError: there is no study, or nobody has ranked anything yet, or an answer does not fit the study.
    """
    folder = Path(folder)
    study = Study.load(folder)
    answers = read_answers(folder, study)
    if not answers.latest:
        raise DataError(
            f"Nobody has ranked anything in {folder} yet; let people do so with `lab2pix study serve {folder}`"
        )
    by_person = [_points(answers, key, study.methods) for key in answers.names]
    points = np.concatenate(by_person)
    means = bootstrap_means(by_person, resamples, seed)
    tests = [compare_methods(points, "rankings")]
    tests.append(compare_methods(np.stack([one.mean(axis=0) for one in by_person]), "participants' mean scores"))
    return StudyReport(
        folder=folder,
        study=study,
        rankings=len(points),
        methods=tuple(
            _method_score(name, points[:, index], means[:, index], len(study.methods))
            for index, name in enumerate(study.methods)
        ),
        tests=tuple(test for test in tests if test is not None),
        participants=tuple(
            Participant(
                name=name,
                ranked=len(mine := answers.of(key)),
                samples=study.samples,
                median_seconds=float(np.median([answer.seconds for answer in mine.values()])),
            )
            for key, name in answers.names.items()
        ),
        replaced=answers.replaced,
        repeated=answers.repeated,
        damaged=tuple(answers.damaged),
        resamples=resamples,
        seed=seed,
    )


def bootstrap_means(by_person: Sequence[NDArray[Any]], resamples: int, seed: int) -> NDArray[np.float64]:
    """Draw participants with replacement, then of each the samples, and average the points.

    People differ, and one person's rankings are alike: redrawing all rankings alike would give too narrow an interval.

    Args:
        by_person: points `[rankings, methods]` of each participant.
        resamples: how often.
        seed: decides the draws.

    Returns:
        `[resamples, methods]` means.
    """
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, by_person[0].shape[1]))
    for row in means:
        drawn = [by_person[index] for index in generator.integers(len(by_person), size=len(by_person))]
        row[:] = np.concatenate([one[generator.integers(len(one), size=len(one))] for one in drawn]).mean(axis=0)
    return means


def compare_methods(points: NDArray[Any], over: str) -> Test | None:
    """Test whether methods differ: Friedman's test for three or more, Wilcoxon's signed-rank test for two.

    Args:
        points: `[blocks, methods]`, of which each block is judged by one person.
        over: what the blocks are.

    Returns:
        The test; `None` for a single block, or where no block tells any method from another.
    """
    stats = import_extra("scipy.stats", "web", "the statistical test of a study")
    blocks, methods = points.shape
    if blocks < 2 or bool((points == points[:, :1]).all()):
        return None
    if methods == 2:
        result = stats.wilcoxon(points[:, 0], points[:, 1])
        return Test("Wilcoxon signed-rank test", over, blocks, float(result.statistic), float(result.pvalue), None)
    result = stats.friedmanchisquare(*points.T)
    statistic = float(result.statistic)
    return Test("Friedman test", over, blocks, statistic, float(result.pvalue), statistic / (blocks * (methods - 1)))


def _points(answers: Answers, key: str, methods: Sequence[str]) -> Scores:
    """Return a participant's points: `[rankings, methods]`, M for the best of M methods, 1 for the worst."""
    rankings = [answer.ranking for answer in answers.of(key).values()]
    return np.array([[len(methods) - ranking.index(method) for method in methods] for ranking in rankings])


def _method_score(name: str, points: Scores, means: NDArray[np.float64], methods: int) -> MethodScore:
    low, high = np.percentile(means, [2.5, 97.5])
    return MethodScore(
        name=name,
        mean=float(points.mean()),
        std=float(points.std(ddof=1)) if len(points) > 1 else None,
        interval=(float(low), float(high)),
        top1=float((points == methods).mean()),
        top2=float((points >= methods - 1).mean()),
        ranks=tuple(int((points == methods - rank).sum()) for rank in range(methods)),
    )


def _refuse_other_report(out: Path) -> None:
    """Refuse a folder with a `report.json` that no study wrote, or with a page or table that stands beside none."""
    file = out / "report.json"
    if not file.exists():
        for other in (out / "report.md", out / "report.html"):
            if other.exists():
                raise OutputError(f"{other} is no study's, as no report.json lies beside it; choose another --out")
        return
    try:
        mine = json.loads(file.read_bytes())["format"] == REPORT_FORMAT
    except (OSError, ValueError, LookupError, TypeError):
        mine = False
    if not mine:
        raise OutputError(f"{file} is no report of a study and would be replaced; choose another --out")


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _escape_cell(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    return "".join(f"\\{character}" if character in "\\|`*_<>[]#&" else character for character in text)
