from __future__ import annotations

import logging
from pathlib import Path

import pytest

from lab2pix.utils.logs import LOGGER, configure_logging, shows_progress
from tests.helpers.commands import Run, sentence
from tests.helpers.images import write_set


@pytest.fixture(autouse=True)
def restored():
    before = LOGGER.level, LOGGER.propagate, list(LOGGER.handlers)
    yield
    LOGGER.setLevel(before[0])
    LOGGER.propagate = before[1]
    LOGGER.handlers[:] = before[2]


def test_messages_go_to_standard_error_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # as two commands in one process
        configure_logging(logging.INFO)
    logging.getLogger("lab2pix.data.formats").info("found %d", 3)
    logging.getLogger("lab2pix.data.formats").debug("hidden")
    assert capsys.readouterr().err == "lab2pix.data.formats: found 3\n"
    assert shows_progress()
    configure_logging(logging.ERROR)
    assert not shows_progress()


@pytest.mark.parametrize("place", [0, 99])
def test_options_set_the_level_at_any_position(place: int, tmp_path: Path, run: Run) -> None:
    write_set(tmp_path / "set", ("a",))
    words = ["data", "preview", tmp_path / "set", "--labels", "scenes"]
    (tmp_path / "set" / "real").rename(tmp_path / "set" / "images")
    results = {}
    for option in ("--debug", "--quiet", "-v", "-vv"):
        given = list(words)
        given.insert(place, option)
        results[option] = run(*given, "--out", tmp_path / f"{option}.png")
    assert [code for code, _, _ in results.values()] == [0, 0, 0, 0]
    assert results["--quiet"][2] == results["--debug"][2] == ""
    assert results["-v"][2].startswith("lab2pix.data.formats: found 1 samples of format 'folder'")
    sentence(run("labels", "--quiet", "-v"), "--quiet and -v contradict each other")
