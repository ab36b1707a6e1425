"""Contents of a user study, and the order in which each participant sees them (Section 5.5)."""

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
from lab2pix.utils.text import first_few

FORMAT: Literal["lab2pix-study/1"] = "lab2pix-study/1"
MAX_METHODS = 9
"""Each rank has a digit key."""

MAX_NAME = 40
"""Characters of a participant's name."""

Token = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
"""Random file name of an image without its suffix, so that it reveals nothing."""

Byte = Annotated[int, Field(ge=0, le=255)]


def seeded_shuffle(items: Iterable[str], *seed: object) -> list[str]:
    """Shuffle strings by their hashes, so that the order depends on no library version.

    Args:
        items: distinct strings; their order does not matter.
        seed: values that determine the order, such as a number and a name.
    """
    return sorted(items, key=lambda item: hashlib.sha256(json.dumps([*seed, item]).encode()).digest())


def participant_name(text: str) -> str:
    """Return a participant's name with single spaces between words and none around them.

    Raises:
        DataError: it is empty, too long, or not printable.
    """
    name = " ".join(unicodedata.normalize("NFC", text[: 4 * MAX_NAME]).split())
    if not any(character.isalnum() for character in name):
        raise DataError("The name needs a letter or a digit")
    if len(name) > MAX_NAME or len(text) > 4 * MAX_NAME:
        raise DataError(f"The name is longer than {MAX_NAME} characters; choose a shorter one")
    if not name.isprintable():
        raise DataError("The name contains characters that cannot be shown; use letters, digits and spaces")
    return name


def participant_key(name: str) -> str:
    """Return the case-insensitive key by which a participant is recognized."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ClassColor(_Schema):
    """A class of the legend.

    Attributes:
        name: name in the label space.
        color: red, green, blue.
    """

    name: str
    color: Annotated[list[Byte], Field(min_length=3, max_length=3)]


class Sample(_Schema):
    """A label map, its generated images, and its real image.

    Attributes:
        name: name of the source files.
        label: token of the rendered label map.
        truth: token of the real image, if there is one.
        images: tokens of the generated images, by method.
        size: height and width of the label map in pixels.
        classes: class ids in the label map, most frequent first; empty without a label space.
    """

    name: str
    label: Token
    truth: Token | None
    images: dict[str, Token]
    size: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)]
    classes: list[Annotated[int, Field(ge=0)]]

    @property
    def tokens(self) -> list[str]:
        """All tokens: label map, real image if any, generated images."""
        return [self.label, *([self.truth] if self.truth else []), *self.images.values()]


@dataclass(frozen=True)
class Task:
    """A sample to rank, with the methods in the order in which the participant sees them."""

    sample: Sample
    methods: tuple[str, ...]


class Study(_Schema):
    """A user study, as stored in `study.json`.

    Attributes:
        format: format of the file.
        lab2pix: version that built it.
        created: time of creation in UTC.
        seed: determines the chosen samples and the orders in which participants see them.
        samples: number of samples per participant.
        methods: names of the methods, in the order of the report.
        label_space: name of the label space; None if label maps are shown as they are.
        classes: all classes, unknown last if there is one; empty without a label space.
        pool: samples from which each participant's are chosen.
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
            raise ValueError("two samples or images share a name")
        if any(set(sample.images) != set(self.methods) for sample in self.pool):
            raise ValueError("a sample does not have one image of each method")
        if len(set(self.methods)) != len(self.methods) or self.samples > len(self.pool):
            raise ValueError("two methods share a name, or the pool is smaller than the number of samples")
        if any(index >= len(self.classes) for sample in self.pool for index in sample.classes):
            raise ValueError("a sample contains a class that is not listed")
        return self

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read a study from its folder.

        Raises:
            DataError: it is missing, damaged, or of another format.
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
            message = f"{file} is not a study of format {FORMAT} ({where}: {first['msg']}); make it again"
            raise DataError(message) from error

    def require_images(self, folder: Path) -> dict[str, Path]:
        """Return the file of each image by its token.

        Raises:
            DataError: one is missing.
        """
        files = {token: folder / "images" / f"{token}.png" for sample in self.pool for token in sample.tokens}
        missing = [file.name for file in files.values() if not file.is_file()]
        if missing:
            raise DataError(f"{folder / 'images'} lacks {first_few(missing)}; copy the study again, or make it again")
        return files

    @cached_property
    def by_name(self) -> dict[str, Sample]:
        """The samples by name."""
        return {sample.name: sample for sample in self.pool}

    def tasks(self, participant: str) -> list[Task]:
        """Return what a participant ranks, in order; it depends on the study's seed and the name alone.

        Args:
            participant: name, not case-sensitive.
        """
        key = participant_key(participant)
        names = seeded_shuffle(self.by_name, self.seed, key, "samples")[: self.samples]
        return [
            Task(self.by_name[name], tuple(seeded_shuffle(self.methods, self.seed, key, "methods", name)))
            for name in names
        ]
