"""Comparisons: YAML files that name methods, their settings, and what is scored."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from string import Template
from typing import Any

from _runs import Run
from _tables import COLUMNS
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lab2pix.utils.yaml_text import parse_yaml

__all__ = ["Comparison", "Row", "Split", "link_split", "portable", "slug"]


_FOLDERS = {
    name: partial(os.environ.get, f"LAB2PIX_{name}", f"../shared/{name.lower()}") for name in ("DATA", "MODELS")
}
"""Folders that YAML files name as `$DATA` and `$MODELS`."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Split(_Part):
    """Split of a folder without parts: the last files by name are held out; `runs/NAME/data` links to all."""

    folder: str
    held_out: int = Field(ge=1)


class Row(_Part):
    """A method of a comparison: its preset, and settings that differ from it."""

    preset: str
    settings: tuple[str, ...] = ()


class Judge(_Part):
    """The segmenter that scores: trained on the real pairs alone, with an encoder that learns from nothing."""

    architecture: str = "unet"
    encoder: str = "resnet18"
    steps: int = Field(1200, ge=1)


class Comparison(_Part):
    """A comparison, as its YAML file has it.

    In settings and folders, `$DATA` is the environment variable LAB2PIX_DATA or `../shared/data`, `$MODELS` is
    LAB2PIX_MODELS or `../shared/models`, `$HERE` the folder of the YAML file, and `$SPLIT` the folder of links that
    `split` makes.

    Attributes:
        name: name of the YAML file without its suffix.
        title: caption of the table.
        minutes: processor time of each training; or `steps`.
        steps: steps of each training.
        seeds: seeds of each method.
        scores: columns of the table in `COLUMNS`; none: costs and images only.
        reference: method whose training time is 1 in the column `time_ratio`.
        judge: segmenter of PPA, PCA and C-IoU, and of the distances in its features, `frechet_segmenter` and
            `kernel_segmenter`.
        settings: settings of all methods.
        methods: the methods, by title.
        split: the split of a folder that has none.
    """

    name: str
    title: str
    minutes: float | None = Field(None, gt=0)
    steps: int | None = Field(None, ge=1)
    seeds: tuple[int, ...] = (0,)
    scores: tuple[str, ...] = ()
    reference: str | None = None
    judge: Judge = Judge()
    settings: tuple[str, ...]
    methods: dict[str, Row] = Field(min_length=1)
    split: Split | None = None

    @classmethod
    def read(cls, file: Path, runs: Path) -> Comparison:
        """Read a YAML file, and make the links of its split.

        Raises:
            ValueError: the file is missing or wrong.
        """
        if not file.is_file():
            raise ValueError(f"there is no file {file}; name a comparison such as benchmarks/compare/facades.yaml")
        places = {name: folder() for name, folder in _FOLDERS.items()} | {"HERE": str(file.resolve().parent)}
        places["SPLIT"] = str(runs / file.stem / "data")
        try:
            made = cls.model_validate({"name": file.stem, **parse_yaml(Template(file.read_text()).substitute(places))})
        except (ValidationError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is no comparison: {error}; correct it") from error
        if (made.minutes is None) == (made.steps is None):
            raise ValueError(f"{file} has both or none of minutes and steps; give one of them")
        if unknown := [name for name in made.scores if name not in COLUMNS]:
            raise ValueError(f"{file} has the unknown score '{unknown[0]}'; known: {', '.join(COLUMNS)}")
        if made.reference not in (None, *made.methods):
            raise ValueError(f"{file} has no method '{made.reference}', which its reference names; name one of them")
        if made.split is not None:
            link_split(Path(made.split.folder), Path(places["SPLIT"]), made.split.held_out)
        return made

    def words(self, title: str) -> tuple[str, ...]:
        """Return preset and settings of a method."""
        row = self.methods[title]
        return (row.preset, *self.settings, *row.settings)

    def runs(self, costs: Mapping[str, Mapping[str, float]]) -> list[Run]:
        """Return all runs, those of one seed together.

        Raises:
            ValueError: the cost of a step is needed, but was not measured.
        """
        found = []
        for seed in self.seeds:
            for title in self.methods:
                if self.minutes is not None and title not in costs:
                    raise ValueError(f"the cost of a step of {title} is unknown; run the verb `time` first")
                steps = self.steps or max(10, round(6 * (self.minutes or 0) / costs[title]["step_s"]) * 10)
                found.append(Run(self.name, slug(title), seed, steps, self.words(title)))
        return found


def slug(title: str) -> str:
    """Return a title as part of a folder's name."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def link_split(source: Path, target: Path, held_out: int) -> None:
    """Link the files of a folder into `train` and `val`; the last by name are held out.

    Raises:
        ValueError: the folder has too few files.
    """
    files = sorted(path for path in source.iterdir() if path.is_file()) if source.is_dir() else []
    if len(files) <= held_out:
        raise ValueError(f"{source} has {len(files)} files, too few to hold out {held_out}; correct split.folder")
    for place, path in enumerate(files):
        link = target / ("train" if place < len(files) - held_out else "val") / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(path.resolve())


def portable(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison without the paths of this machine."""
    text = json.dumps(comparison.model_dump(mode="json"))
    folders = re.findall(r"[^\"= ]*/benchmarks/compare(?=/)", text)
    for folder in folders:
        text = text.replace(folder, "benchmarks/compare")
    for name, folder in _FOLDERS.items():
        text = text.replace(folder(), f"${name}")
    return dict(json.loads(text))
