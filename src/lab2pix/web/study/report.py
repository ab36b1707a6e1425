"""Evaluation of a user study: mean scores, Top1 and Top2 rates as in Table 6, confidence intervals and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lab2pix
from lab2pix.errors import DataError
from lab2pix.utils.extras import import_extra
from lab2pix.utils.text import plural
from lab2pix.web.study.samples import Study
from lab2pix.web.study.store import FILE_NAME, Answers, read_answers

Points = NDArray[np.int64]
"""`[rankings, methods]`: M points for the best of M methods, 1 for the worst."""

REPORT_FORMAT = "lab2pix-study-report/1"
RESAMPLES = 2000


@dataclass(frozen=True)
class MethodScore:
    """One row of Table 6.

    Attributes:
        name: name of the method.
        mean: mean points, from 1 (always worst) to the number of methods (always best).
        std: standard deviation over all rankings, `None` for a single one.
        interval: 95 % bootstrap interval of the mean.
        top1: share of rankings that put it first, 0 to 1.
        top2: share that put it first or second.
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
class SignificanceTest:
    """Test of the null hypothesis that people like all methods equally.

    Attributes:
        name: name of the test.
        over: what its blocks are: rankings, or participants' mean scores.
        blocks: number of blocks.
        statistic: chi-square (Friedman) or W (Wilcoxon).
        p: p-value.
        agreement: Kendall's W of a Friedman test, 0 (no agreement among blocks) to 1 (all equal), else `None`.
    """

    name: str
    over: str
    blocks: int
    statistic: float
    p: float
    agreement: float | None

    def __str__(self) -> str:
        """Return the test in one line."""
        p = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"
        symbol = "statistic" if self.agreement is None else "chi-square"
        agreement = "" if self.agreement is None else f", Kendall's W = {self.agreement:.2f}"
        return f"{self.name} over {self.blocks} {self.over}: {symbol} = {self.statistic:.2f}, {p}{agreement}"


@dataclass(frozen=True)
class Participant:
    """A participant: name, numbers of ranked and assigned samples, and median seconds per sample."""

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
    """Results of a study; its string is a table.

    Attributes:
        folder: folder of the study.
        study: the study.
        rankings: number of rankings that count.
        methods: scores, in the study's order.
        tests: over rankings and, if there are several participants, over participants.
        participants: in the order of their first answers.
        replaced: number of answers that were corrected later.
        repeated: number of lines that repeat an answer.
        damaged: numbers of the truncated lines of `answers.jsonl`.
        resamples: number of bootstrap samples.
        seed: seed of the bootstrap.
    """

    folder: Path
    study: Study
    rankings: int
    methods: tuple[MethodScore, ...]
    tests: tuple[SignificanceTest, ...]
    participants: tuple[Participant, ...]
    replaced: int
    repeated: int
    damaged: tuple[int, ...]
    resamples: int
    seed: int

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
        """Return notes on the table, one line each."""
        lines = [
            f"{plural(self.rankings, 'ranking')} by {plural(len(self.participants), 'participant')}; "
            f"{len(self.methods)} points for the best image, 1 for the worst"
        ]
        lines += [str(test) for test in self.tests]
        if len(self.participants) == 1:
            lines.append("the interval is about one person's taste: with one participant only samples are resampled")
        if unfinished := [one for one in self.participants if not one.finished]:
            listed = ", ".join(f"{one.name} ({one.ranked} of {one.samples})" for one in unfinished)
            lines.append(f"unfinished participants, whose rankings count: {listed}")
        if self.replaced:
            lines.append(f"{plural(self.replaced, 'answer')} corrected later; the last one counts")
        if self.repeated:
            lines.append(f"{plural(self.repeated, 'repeated line')} in {FILE_NAME}, counted once")
        if self.damaged:
            numbers = ", ".join(str(number) for number in self.damaged)
            lines.append(f"{FILE_NAME}, line {numbers}: truncated by a crash and skipped")
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
        rows = [[_escape_markdown(cell) for cell in row] for row in self.rows()]
        table = [heads, ["---", *["---:"] * 4], *rows]
        lines = ["# User study", "", *(f"| {' | '.join(row)} |" for row in table), ""]
        lines += [f"- {_escape_markdown(note)}" for note in self.notes()]
        return "\n".join(lines) + "\n"

    def __str__(self) -> str:
        """Return the table and the notes."""
        rows = [("method", "mean score", "95 % interval", "Top1 (%)", "Top2 (%)"), *self.rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
            )
            for row in rows
        ]
        return "\n".join([*lines, "", *self.notes()])


def report_study(folder: Path | str, *, resamples: int = RESAMPLES, seed: int = 0) -> StudyReport:
    """Evaluate the answers of a study.

    `resamples` and `seed` are those of the bootstrap.

    Raises:
        DataError: there is no study, it has no answers, or an answer does not fit it.
    """
    folder = Path(folder)
    study = Study.load(folder)
    answers = read_answers(folder, study)
    if not answers.latest:
        raise DataError(f"There are no rankings in {folder} yet; collect some with `lab2pix study serve {folder}`")
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
                ranked=len(own := answers.of(key)),
                samples=study.samples,
                median_seconds=float(np.median([answer.seconds for answer in own.values()])),
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
    """Resample participants, then each one's rankings, with replacement, and average the points.

    The rankings of one person are correlated, so resampling all rankings alike would give too narrow an interval.

    `by_person` has the points `[rankings, methods]` of each participant.

    Returns:
        `[resamples, methods]` means.
    """
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, by_person[0].shape[1]))
    for row in means:
        people = [by_person[index] for index in generator.integers(len(by_person), size=len(by_person))]
        row[:] = np.concatenate([one[generator.integers(len(one), size=len(one))] for one in people]).mean(axis=0)
    return means


def compare_methods(points: NDArray[Any], over: str) -> SignificanceTest | None:
    """Test whether methods differ: Friedman test for three or more, Wilcoxon signed-rank test for two.

    Args:
        points: `[blocks, methods]`, where one person judged each block.
        over: what the blocks are.

    Returns:
        The test, or `None` for a single block or if all methods have equal points in every block.
    """
    stats = import_extra("scipy.stats", "web", "the statistical test of a study")
    blocks, methods = points.shape
    if blocks < 2 or bool((points == points[:, :1]).all()):
        return None
    if methods == 2:
        result = stats.wilcoxon(points[:, 0], points[:, 1])
        name, agreement = "Wilcoxon signed-rank test", None
    else:
        result = stats.friedmanchisquare(*points.T)
        name, agreement = "Friedman test", float(result.statistic) / (blocks * (methods - 1))
    return SignificanceTest(name, over, blocks, float(result.statistic), float(result.pvalue), agreement)


def _points(answers: Answers, key: str, methods: Sequence[str]) -> Points:
    """Return a participant's points, `[rankings, methods]`."""
    rankings = [answer.ranking for answer in answers.of(key).values()]
    return np.array([[len(methods) - ranking.index(method) for method in methods] for ranking in rankings])


def _method_score(name: str, points: Points, means: NDArray[np.float64], methods: int) -> MethodScore:
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


def _escape_markdown(text: str) -> str:
    return "".join(f"\\{character}" if character in "\\|`*_<>[]#&" else character for character in text)
