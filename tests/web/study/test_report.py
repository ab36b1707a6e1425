"""Scores, intervals and tests of a study, against SciPy and by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from lab2pix.errors import DataError, OutputError
from lab2pix.web.study.build import BuiltStudy
from lab2pix.web.study.page import report_page, save_report
from lab2pix.web.study.report import bootstrap_means, compare_methods, report_study
from lab2pix.web.study.samples import Study
from lab2pix.web.study.store import FILE_NAME, AnswerStore

Rank = Callable[[str, list[list[str]]], None]

S, L, N = "spade", "lab2pix-v2", "no norm"


@pytest.fixture
def rank(study_folder: Path, study: Study) -> Rank:
    """Stores rankings of a participant."""

    def call(name: str, rankings: list[list[str]]) -> None:
        with AnswerStore(study_folder, study) as store:
            for number, (task, ranking) in enumerate(zip(study.tasks(name), rankings, strict=False)):
                store.append(f"{number:08d}-{name.encode().hex()}", name, task.sample.name, ranking, 2.0 + number)

    return call


@pytest.fixture
def ranked(rank: Rank, study_folder: Path) -> Path:
    """Ada ranks all four samples, Bo two."""
    rank("Ada", [[L, S, N], [L, N, S], [S, L, N], [L, S, N]])
    rank("Bo", [[L, S, N], [N, L, S]])
    return study_folder


def test_scores_by_hand(ranked: Path) -> None:
    report = report_study(ranked)
    spade, ours, without = report.methods
    assert (spade.name, ours.name, without.name) == (S, L, N)
    # points of spade: 2 1 3 2 | 2 1, of ours: 3 3 2 3 | 3 2, of "no norm": 1 2 1 1 | 1 3
    assert (spade.mean, ours.mean, without.mean) == pytest.approx((11 / 6, 16 / 6, 9 / 6))
    assert (spade.top1, ours.top1, without.top1) == pytest.approx((1 / 6, 4 / 6, 1 / 6))
    assert (spade.top2, ours.top2, without.top2) == pytest.approx((4 / 6, 6 / 6, 2 / 6))
    assert (spade.ranks, ours.ranks, without.ranks) == ((1, 3, 2), (4, 2, 0), (1, 1, 4))
    assert spade.std == pytest.approx(np.std([2, 1, 3, 2, 2, 1], ddof=1))
    assert report.rankings == 6
    assert [(one.name, one.ranked, one.samples, one.median_seconds, one.finished) for one in report.participants] == [
        ("Ada", 4, 4, 3.5, True),
        ("Bo", 2, 4, 2.5, False),
    ]


def test_friedman_test_by_hand(ranked: Path) -> None:
    over_rankings, over_people = report_study(ranked).tests
    # Rank sums 11, 16, 9 of six blocks: 12 / (6 * 3 * 4) * (121 + 256 + 81) - 3 * 6 * 4.
    assert over_rankings.statistic == pytest.approx(12 / 72 * 458 - 72)
    assert over_rankings.p == pytest.approx(np.exp(-over_rankings.statistic / 2))  # chi-square of two degrees
    assert over_rankings.agreement == pytest.approx(over_rankings.statistic / 12)
    assert (over_rankings.blocks, over_people.blocks) == (6, 2)
    # The people's means, 2, 2.75, 1.25 and 1.5, 2.5, 2, in ranks: 2 3 1 and 1 3 2.
    assert over_people.statistic == pytest.approx(12 / (2 * 12) * (9 + 36 + 9) - 3 * 2 * 4)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(2, 30), st.integers(0, 10**6))
def test_compare_methods_matches_scipy(methods: int, blocks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = np.stack([rng.permutation(methods) + 1 for _ in range(blocks)])
    test = compare_methods(points, "rankings")
    assert test is not None
    if methods == 2:
        expected = stats.wilcoxon(points[:, 0], points[:, 1])
        assert test.name.startswith("Wilcoxon") and test.agreement is None
    else:
        expected = stats.friedmanchisquare(*points.T)
        assert test.name.startswith("Friedman")
        assert 0 <= (test.agreement or 0) <= 1 + 1e-9
    assert (test.statistic, test.p) == pytest.approx((expected.statistic, expected.pvalue))


def test_compare_methods_returns_none_without_differences() -> None:
    assert compare_methods(np.array([[1, 2, 3]]), "rankings") is None
    assert compare_methods(np.array([[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]), "people") is None
    assert compare_methods(np.array([[1.5, 1.5], [1.5, 1.5]]), "people") is None
    alike = compare_methods(np.array([[1, 2, 3]] * 5), "rankings")
    assert alike is not None and alike.agreement == pytest.approx(1)


# --- the interval ---------------------------------------------------------------------------------------------------


def random_points(people: int, samples: int, taste: float, seed: int = 0) -> list[NDArray[np.int64]]:
    """Sample rankings of three methods by people with different tastes."""
    rng = np.random.default_rng(seed)
    tastes = rng.normal(size=(people, 1, 3)) * taste
    noise = rng.normal(size=(people, samples, 3))
    return list((tastes + noise).argsort(axis=-1).argsort(axis=-1) + 1)


def test_interval_of_one_person_is_the_plain_bootstrap() -> None:
    (points,) = random_points(1, 60, 0)
    means = bootstrap_means([points], 4000, 1)
    plain = stats.bootstrap(
        (points[:, 0],), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(2)
    )
    low, high = np.percentile(means[:, 0], [2.5, 97.5])
    assert (low, high) == pytest.approx((plain.confidence_interval.low, plain.confidence_interval.high), abs=0.03)
    assert means.mean(axis=0) == pytest.approx(points.mean(axis=0), abs=0.02)
    assert means.sum(axis=1) == pytest.approx(np.full(4000, 6.0))  # each ranking assigns six points


@pytest.mark.slow
def test_interval_is_wider_if_people_differ() -> None:
    def width(taste: float) -> float:
        low, high = np.percentile(bootstrap_means(random_points(8, 50, taste), 2000, 0)[:, 0], [2.5, 97.5])
        return float(high - low)

    assert width(2) > 2 * width(0)


@pytest.mark.slow
def test_interval_has_its_nominal_coverage() -> None:
    held = 0
    for seed in range(150):
        low, high = np.percentile(bootstrap_means(random_points(12, 20, 0.5, seed), 300, seed)[:, 0], [2.5, 97.5])
        held += low <= 2 <= high  # the expected score of every method is 2
    assert 0.85 <= held / 150 <= 0.99


@pytest.mark.slow
def test_interval_contains_the_mean_and_depends_on_the_seed(ranked: Path) -> None:
    first, again, other = report_study(ranked), report_study(ranked), report_study(ranked, seed=1)
    assert all(one.interval[0] <= one.mean <= one.interval[1] for one in first.methods)
    assert first.methods == again.methods
    assert [one.interval for one in first.methods] != [one.interval for one in other.methods]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(1, 20), st.integers(0, 10**6))
def test_bootstrap_means_sum_to_all_points(methods: int, rankings: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = np.stack([rng.permutation(methods) + 1 for _ in range(rankings)])
    means = bootstrap_means([points], 10, seed)
    assert means.sum(axis=1) == pytest.approx(np.full(10, methods * (methods + 1) / 2))


# --- what is said ---------------------------------------------------------------------------------------------------


def test_corrected_answer_counts_once(ranked: Path, study: Study) -> None:
    first = study.tasks("Ada")[0].sample.name
    with AnswerStore(ranked, study) as store:
        store.append("Ada-corrected", "Ada", first, [N, S, L], 1)
    report = report_study(ranked)
    assert (report.rankings, report.replaced) == (6, 1)
    assert report.methods[2].ranks == (2, 1, 3)
    assert "1 answer corrected later; the last one counts" in str(report)


def test_repeated_and_truncated_lines_are_reported(ranked: Path) -> None:
    file = ranked / FILE_NAME
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines) + lines[0] + lines[1][:50])
    report = report_study(ranked)
    assert report.rankings == 6
    assert "1 repeated line in answers.jsonl, counted once" in str(report)
    assert "answers.jsonl, line 8: truncated by a crash and skipped" in str(report)


def test_report_as_text(ranked: Path) -> None:
    text = str(report_study(ranked))
    assert re.search(r"^method +mean score +95 % interval +Top1 \(%\) +Top2 \(%\)$", text, re.MULTILINE)
    assert re.search(r"^lab2pix-v2 +2\.67 ± 0\.52 +\d\.\d\d to \d\.\d\d +66\.7 +100\.0$", text, re.MULTILINE)
    assert "6 rankings by 2 participants; 3 points for the best image, 1 for the worst" in text
    assert "Friedman test over 6 rankings: chi-square = 4.33, p = 0.115, Kendall's W = 0.36" in text
    assert "unfinished participants, whose rankings count: Bo (2 of 4)" in text


def test_report_of_one_ranking(rank: Rank, study_folder: Path) -> None:
    rank("Ada", [[L, S, N]])
    report = report_study(study_folder)
    assert [(one.mean, one.std, one.interval) for one in report.methods] == [
        (2, None, (2, 2)),
        (3, None, (3, 3)),
        (1, None, (1, 1)),
    ]
    assert report.tests == ()
    assert "one person's taste" in str(report)
    assert "1 ranking by 1 participant;" in str(report)


def test_report_of_two_methods(build: Callable[..., BuiltStudy], tmp_path: Path) -> None:
    built = build((S, L), out=tmp_path / "two", label_space=None)
    with AnswerStore(built.folder, built.study) as store:
        for number, task in enumerate(built.study.tasks("Ada")):
            store.append(f"id-{number:08d}", "Ada", task.sample.name, [L, S] if number else [S, L], 1)
    report = report_study(built.folder)
    assert [(one.mean, one.top1, one.top2) for one in report.methods] == [(1.25, 0.25, 1), (1.75, 0.75, 1)]
    assert "Wilcoxon signed-rank test over 4 rankings" in str(report)
    assert "none given; label maps are shown as they are" in report_page(report)


def test_report_files(ranked: Path, tmp_path: Path) -> None:
    report = report_study(ranked)
    out = tmp_path / "report"
    assert [file.name for file in save_report(report, out)] == ["report.json", "report.md", "report.html"]
    assert sorted(file.name for file in out.iterdir()) == ["report.html", "report.json", "report.md"]
    kept = json.loads((out / "report.json").read_text())
    assert [row["name"] for row in kept["methods"]] == [S, L, N]
    assert kept["methods"][1]["mean"] == pytest.approx(16 / 6)
    assert kept["protocol"]["points"] == "3 for the best to 1 for the worst"
    assert kept["participants"][1] == {
        "name": "Bo",
        "ranked": 2,
        "samples": 4,
        "median_seconds": 2.5,
        "finished": False,
    }
    assert "| lab2pix-v2 | 2.67 ± 0.52 |" in (out / "report.md").read_text()
    page = (out / "report.html").read_text()
    assert "2.67 ± 0.52" in page
    assert "src=" not in page and "href=" not in page  # it is self-contained
    save_report(report, out)  # replaces its own files


def test_other_report_is_not_replaced(ranked: Path, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"format": "something else"}')
    with pytest.raises(OutputError, match="not a study's report and would be replaced"):
        save_report(report_study(ranked), tmp_path)
    assert (tmp_path / "report.json").read_text() == '{"format": "something else"}'


@pytest.mark.slow
@pytest.mark.parametrize("name", ["report.md", "report.html"])
def test_page_without_report_is_not_replaced(name: str, ranked: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match=rf"{name} is not a study's \(no report.json"):
        save_report(report_study(ranked), tmp_path)
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_names_are_escaped(rank: Rank, study_folder: Path, tmp_path: Path) -> None:
    rank("<b>Ada|x", [[L, S, N], [L, S, N]])
    save_report(report_study(study_folder), tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<b>Ada" not in page and "&lt;b&gt;Ada|x" in page
    assert "<b>Ada|x" not in (tmp_path / "report" / "report.md").read_text()


def test_report_without_rankings_is_refused(study_folder: Path) -> None:
    with pytest.raises(DataError, match="There are no rankings"):
        report_study(study_folder)
