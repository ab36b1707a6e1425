from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from lab2pix.training import monitor, train
from lab2pix.training.monitor import DiscriminatorWatch
from tests.helpers.toy import lines, toy_config


def watched(real: float, fake: float, steps: int = 3000) -> list[int]:
    watch = DiscriminatorWatch()
    terms = {"generator": {"l1": 0.0}, "discriminator": {"real": real, "fake": fake}}
    return [step for step in range(10, steps, 10) if watch.has_won(step, terms)]


def test_discriminators_that_have_won_are_reported_once() -> None:
    assert watched(0.02, 0.001) == [1010]


@pytest.mark.parametrize(("real", "fake"), [(0.5, 0.5), (0.11, 0.0), (-3.0, 2.0)])
def test_a_balance_and_a_wasserstein_loss_are_not_reported(real: float, fake: float) -> None:
    assert not watched(real, fake)


def test_discriminators_that_recover_are_not_reported() -> None:
    watch = DiscriminatorWatch()
    values = itertools.cycle([0.001] * 80 + [2.0])
    assert not any(watch.has_won(step, {"d": {"real": next(values), "fake": 0.0}}) for step in range(0, 5000, 10))


@pytest.mark.usefixtures("toys")
def test_a_run_says_that_its_discriminators_have_won(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "_WON_FOR", 3)
    monkeypatch.setattr(
        monitor.Monitor, "average", lambda self, losses: {"discriminator": {"real": 0.01, "fake": 0.01}}
    )
    train(toy_config(), tmp_path / "run")
    [note] = [line["note"] for line in lines(tmp_path / "run", "note") if "have won" in line["note"]]
    assert "start again with a lower learning rate" in note
