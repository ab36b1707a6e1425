"""Assignment of samples to participants: reproducible and uniform; participants' names; the study's file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lab2pix.errors import DataError
from lab2pix.web.study.samples import MAX_NAME, Sample, Study, participant_key, participant_name, seeded_shuffle


def study_of(methods: int, pool: int, samples: int, seed: int = 0) -> Study:
    """Return a study without image files."""
    names = [f"m{number}" for number in range(methods)]
    numbers = iter(range(10**9))
    return Study(
        format="lab2pix-study/1",
        lab2pix="0",
        created="2026-01-01T00:00:00+00:00",
        seed=seed,
        samples=samples,
        methods=names,
        label_space="scenes",
        classes=[],
        pool=[
            Sample(
                name=f"s{number}",
                label=f"{next(numbers):016x}",
                truth=None,
                images={name: f"{next(numbers):016x}" for name in names},
                size=[4, 4],
                classes=[],
            )
            for number in range(pool)
        ],
        left_out=[],
    )


def seen(study: Study, name: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(task.sample.name, task.methods) for task in study.tasks(name)]


def test_seeded_shuffle_never_changes() -> None:
    # Fixed values: another order would show a returning participant other samples.
    assert seeded_shuffle(["a", "b", "c", "d", "e"], 0, "pool") == ["c", "a", "b", "d", "e"]
    assert seeded_shuffle(["e", "d", "c", "b", "a"], 0, "pool") == ["c", "a", "b", "d", "e"]
    assert seeded_shuffle(["a", "b", "c", "d", "e"], 1, "pool") != ["c", "a", "b", "d", "e"]


def test_tasks_depend_on_name_and_seed_alone() -> None:
    study = study_of(5, 40, 20)
    assert seen(study, "Ada") == seen(study_of(5, 40, 20), "Ada")
    assert seen(study, "Ada") == seen(study, "aDA")
    assert seen(study, "Ada") != seen(study, "Bo")
    assert seen(study, "Ada") != seen(study_of(5, 40, 20, seed=1), "Ada")


@given(st.integers(2, 9), st.integers(1, 30), st.data())
def test_tasks_have_each_sample_once_with_all_methods(methods: int, pool: int, data: st.DataObject) -> None:
    samples = data.draw(st.integers(1, pool))
    study = study_of(methods, pool, samples, seed=data.draw(st.integers(0, 99)))
    tasks = study.tasks(data.draw(st.text("abcäöß é", min_size=1, max_size=10)))
    assert len({task.sample.name for task in tasks}) == len(tasks) == samples
    for task in tasks:
        assert sorted(task.methods) == study.methods


def test_methods_are_uniform_over_positions() -> None:
    study = study_of(5, 100, 100)
    people, shown = 20, Counter[tuple[str, int]]()
    for person in range(people):
        for task in study.tasks(f"person {person}"):
            shown.update((method, place) for place, method in enumerate(task.methods))
    expected = people * 100 / 5
    assert len(shown) == 25
    # A binomial count of 2000 draws at 1/5 has a standard deviation of 18; the tolerance is five of them.
    assert all(abs(count - expected) < 5 * 18 for count in shown.values()), shown


def test_samples_of_the_pool_are_uniform() -> None:
    study = study_of(2, 20, 10)
    shown = Counter(task.sample.name for person in range(400) for task in study.tasks(f"person {person}"))
    assert len(shown) == 20
    assert all(abs(count - 200) < 5 * 10 for count in shown.values()), shown


@pytest.mark.parametrize(
    ("text", "name"), [("  Ada   Lovelace ", "Ada Lovelace"), ("a\tb\n", "a b"), ("e\u0301va", "éva"), ("7", "7")]
)
def test_participant_name_is_normalized(text: str, name: str) -> None:
    assert participant_name(text) == name


@pytest.mark.parametrize(
    "text", ["", "  ", "...", "\u200b", "x" * (MAX_NAME + 1), " " * 1000 + "x", "a\x00b", "a\u202eb"]
)
def test_invalid_participant_name_is_refused(text: str) -> None:
    with pytest.raises(DataError):
        participant_name(text)


@given(st.text(max_size=60))
def test_normalized_name_is_stable(text: str) -> None:
    try:
        name = participant_name(text)
    except DataError:
        return
    assert participant_name(name) == name
    assert name.isprintable() and 0 < len(name) <= MAX_NAME
    assert participant_key(name) == participant_key(name.swapcase().swapcase())


def test_study_is_loaded_as_built(study_folder: Path, study: Study) -> None:
    assert [len(study.pool), study.samples, study.methods] == [6, 4, ["spade", "lab2pix-v2", "no norm"]]
    assert Study.load(study_folder) == study
    files = study.require_images(study_folder)
    assert sorted(file.name for file in (study_folder / "images").iterdir()) == sorted(f"{key}.png" for key in files)


def change(study: Study, **changes: object) -> str:
    return json.dumps({**json.loads(study.model_dump_json()), **changes})


def test_inconsistent_study_is_refused(study: Study) -> None:
    pool = json.loads(study.model_dump_json())["pool"]
    assert Study.model_validate_json(change(study, seed=6)).seed == 6
    for changes in (
        {"samples": 7},
        {"methods": ["spade", "lab2pix-v2"]},
        {"pool": [*pool, pool[0]]},
        {"format": "lab2pix-study/2"},
        {"classes": []},
        {"pool": [{**pool[0], "label": "../../etc/passwd"}, *pool[1:]]},
    ):
        with pytest.raises(ValidationError):
            Study.model_validate_json(change(study, **changes))
