"""Folders of tiny pictures for a study, and the study that is made of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab2pix.labels import LabelSpace
from lab2pix.web.study_make import MadeStudy, make_study
from lab2pix.web.study_samples import Study

METHODS = ("spade", "lab2pix-v2", "no norm")
NAMES = ("a", "b", "city/c", "d", "e", "f")


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Folders `labels`, `truth` and one per method, with the same names; each has a gray of its own."""
    places = {"labels": tmp_path / "labels", "truth": tmp_path / "truth"}
    places |= {method: tmp_path / "out" / method for method in METHODS}
    for number, (kind, folder) in enumerate(places.items()):
        for name in NAMES:
            file = folder / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            if kind == "labels":
                ids = np.zeros((6, 8), dtype=np.uint8)
                ids[4:] = 3
                Image.fromarray(ids).save(file)
            else:
                Image.fromarray(np.full((6, 8, 3), 40 * number, dtype=np.uint8)).save(file)
    return places


@pytest.fixture
def make(folders: dict[str, Path], tmp_path: Path) -> Callable[..., MadeStudy]:
    """Makes a study of the tiny pictures in `tmp_path/study`; takes what `make_study` takes beside the folders."""

    def call(
        methods: tuple[str, ...] = METHODS,
        *,
        out: Path | None = None,
        label_space: str | None = "scenes",
        **settings: object,
    ) -> MadeStudy:
        chosen = {method: folders[method] for method in methods}
        given: dict[str, object] = {"truth": folders["truth"], "samples": 4, "pool": 6, "seed": 5, **settings}
        space = None if label_space is None else LabelSpace.load(label_space)
        return make_study(folders["labels"], space, chosen, out or tmp_path / "study", **given)  # type: ignore[arg-type]

    return call


@pytest.fixture
def study_folder(make: Callable[..., MadeStudy]) -> Path:
    """A study of three methods: each participant ranks four samples of six."""
    return make().folder


@pytest.fixture
def study(study_folder: Path) -> Study:
    """The study in that folder."""
    return Study.load(study_folder)
