"""Fixtures: image folders, and exported feature networks and segmenters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.images import SPACE, ColorReader, Folders, Means, export, write_set


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Five pictures of 48x32 pixels with their photos and label maps."""
    return write_set(tmp_path / "set")


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported segmenter that reads the classes' colours without fault, at 48x32 pixels."""
    file = tmp_path_factory.mktemp("reader") / "colors.pt2"
    return export(ColorReader(), file, {"size": [32, 48], "classes": list(SPACE.names)})


@pytest.fixture(scope="session")
def means(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported feature network of 18 numbers, at 48x32 pixels."""
    return export(Means(), tmp_path_factory.mktemp("means") / "means.pt2", {"size": [32, 48]})


@pytest.fixture
def evaluate(
    run: Callable[..., tuple[int, str, str]], folders: Folders, means: Path, tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Runs `lab2pix evaluate` on the folders through quick features; more words go behind."""

    def call(*words: object, generated: Path = folders.generated, real: Path | None = folders.real) -> tuple:
        sides = ("--generated", generated, *(() if real is None else ("--real", real)))
        given = [str(word) for word in words]
        features = () if "--features" in given else ("--features", means)
        out = () if "--out" in given else ("--out", tmp_path / "report.json")
        return run("evaluate", *sides, *features, *out, "--device", "cpu", *words)

    return call
