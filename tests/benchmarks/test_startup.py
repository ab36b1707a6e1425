"""Rows of the benchmark of the start: who takes turns, and what a ratio is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import startup


class Fake:
    """A checkout whose every call takes a second, or three beside the busy process."""

    beside = False

    def load(self) -> float:
        return 3.0 if Fake.beside else 1.0

    step = paint = load

    def generate(self, samples: int = 1) -> float:
        return samples * self.load()


def test_ratio_is_the_time_beside_a_busy_process_over_the_time_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def busy(wanted: bool) -> Iterator[None]:
        Fake.beside = wanted
        yield
        Fake.beside = False

    monkeypatch.setattr(startup, "busy", busy)
    monkeypatch.setattr(startup, "Checkout", Fake)
    rows = startup.measure({"this": Fake(), "reference": Fake()}, 2)
    assert [(row["what"], row["checkout"]) for row in rows[:2]] == [("import", "this"), ("import", "reference")]
    assert "ratio" not in rows[0] and rows[0]["all_seconds"] == [1.0, 1.0]
    assert {row["what"]: row["ratio"] for row in rows if "ratio" in row} == dict.fromkeys(
        ("step", "generate", "painter"), 3.0
    )
    assert next(row["seconds"] for row in rows if row["what"] == "generate") == startup.SAMPLES
