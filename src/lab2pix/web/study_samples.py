"""What a user study consists of, and what each participant sees of it, in which order (5.5)."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lab2pix.errors import DataError

__all__ = [
    "FORMAT",
    "MAX_METHODS",
    "MAX_NAME",
    "ClassColor",
    "Sample",
    "Study",
    "Task",
    "in_drawn_order",
    "participant_key",
    "participant_name",
]

FORMAT: Literal["lab2pix-study/1"] = "lab2pix-study/1"
MAX_METHODS = 9
"""Ranks are given with one key each."""

MAX_NAME = 40
"""Characters of a participant's name."""

Token = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""A picture's file name less its suffix: random, so that it tells nothing."""

Byte = Annotated[int, Field(ge=0, le=255)]


def in_drawn_order(things: Iterable[str], *of: object) -> list[str]:
    """Shuffle texts by lot; the same order for ever, whatever the version of any library.

    Args:
        things: different texts, whose own order does not matter.
        of: what the lot depends on, such as a seed and a name.
    """

    def lot(thing: str) -> bytes:
        return hashlib.sha256(json.dumps([*of, thing]).encode()).digest()

    return sorted(things, key=lot)


def participant_name(text: str) -> str:
    """Return a participant's name as it is kept: one space between words, none around.

    Raises:
        DataError: it is empty, too long, or holds what cannot be printed.
    """
    name = " ".join(unicodedata.normalize("NFC", text[: 4 * MAX_NAME]).split())
    if not name or not any(character.isalnum() for character in name):
        raise DataError("The name needs a letter or a digit")
    if len(name) > MAX_NAME or len(text) > 4 * MAX_NAME:
        raise DataError(f"The name is longer than {MAX_NAME} characters; choose a shorter one")
    if not name.isprintable():
        raise DataError("The name holds characters that cannot be shown; use letters, digits and spaces")
    return name


def participant_key(name: str) -> str:
    """Return what a participant is recognised by: the name, whatever its capitals."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ClassColor(_Plain):
    """A class of the label maps, for the legend.

    Attributes:
        name: as the label space has it.
        color: red, green, blue.
    """

    name: str
    color: Annotated[list[Byte], Field(min_length=3, max_length=3)]


class Sample(_Plain):
    """A label map, the pictures that the methods made of it, and the true one.

    Attributes:
        name: of the files it came from.
        label: token of the label map as it is shown.
        truth: token of the true picture, if there is one.
        pictures: tokens of the pictures, by method.
        size: height and width of the label map, in pixels.
        classes: which classes the label map holds, most pixels first; empty without a label space.
    """

    name: str
    label: Token
    truth: Token | None
    pictures: dict[str, Token]
    size: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)]
    classes: list[Annotated[int, Field(ge=0)]]

    @property
    def tokens(self) -> list[str]:
        """All tokens of its pictures, the label map's and the true one's among them."""
        return [self.label, *([self.truth] if self.truth else []), *self.pictures.values()]


@dataclass(frozen=True)
class Task:
    """What one participant sees at one place of the way: a sample, its methods in the order that was drawn."""

    sample: Sample
    methods: tuple[str, ...]


class Study(_Plain):
    """A user study, as `study.json` holds it.

    Attributes:
        format: of this file.
        lab2pix: version that made it.
        created: when, in UTC.
        seed: decides which samples were chosen, and who sees what in which order.
        samples: how many each participant ranks.
        methods: their names, in the order of the report.
        label_space: name of the label maps' classes; None: the label maps are shown as they are.
        classes: all of them, unknown last where there is one; empty without a label space.
        pool: the samples that each participant's are drawn from.
        left_out: names that some folder lacked.
    """

    format: Literal["lab2pix-study/1"]
    lab2pix: str
    created: str
    seed: Annotated[int, Field(ge=0)]
    samples: Annotated[int, Field(ge=1)]
    methods: Annotated[list[str], Field(min_length=2, max_length=MAX_METHODS)]
    label_space: str | None
    classes: list[ClassColor]
    pool: Annotated[list[Sample], Field(min_length=1)]
    left_out: list[str]

    @model_validator(mode="after")
    def _check(self) -> Self:
        tokens = [token for sample in self.pool for token in sample.tokens]
        if len(set(tokens)) != len(tokens) or len(self.by_name) != len(self.pool):
            raise ValueError("two samples or pictures share a name")
        if any(set(sample.pictures) != set(self.methods) for sample in self.pool):
            raise ValueError("a sample has not one picture of each method")
        if len(set(self.methods)) != len(self.methods) or self.samples > len(self.pool):
            raise ValueError("two methods share a name, or there are fewer samples than each participant shall see")
        if any(index >= len(self.classes) for sample in self.pool for index in sample.classes):
            raise ValueError("a sample holds a class that is not listed")
        return self

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read a study from its folder.

        Raises:
            DataError: there is none, or it is damaged, or of another version.
        """
        file = Path(folder) / "study.json"
        try:
            text = file.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(f"There is no study in {folder}; make one with `lab2pix study make`") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is damaged (not UTF-8); make the study again") from error
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise DataError(f"{file} is no study of form {FORMAT} ({where}: {first['msg']}); make it again") from error

    def require_pictures(self, folder: Path) -> dict[str, Path]:
        """Return the file of each picture by its token.

        Raises:
            DataError: one is missing.
        """
        files = {token: folder / "pictures" / f"{token}.png" for sample in self.pool for token in sample.tokens}
        missing = [file.name for file in files.values() if not file.is_file()]
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            listed = ", ".join(missing[:3])
            raise DataError(f"{folder / 'pictures'} lacks {listed}{more}; copy the study again, or make it anew")
        return files

    @cached_property
    def by_name(self) -> dict[str, Sample]:
        """The samples by their name."""
        return {sample.name: sample for sample in self.pool}

    def tasks(self, participant: str) -> list[Task]:
        """Draw what a participant ranks, and in which order: of the study's seed and the name alone.

        Args:
            participant: the name; capitals do not matter.
        """
        key = participant_key(participant)
        names = in_drawn_order(self.by_name, self.seed, key, "samples")[: self.samples]
        return [
            Task(self.by_name[name], tuple(in_drawn_order(self.methods, self.seed, key, "methods", name)))
            for name in names
        ]
