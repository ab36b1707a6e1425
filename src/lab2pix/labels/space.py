"""Label spaces: classes, their file encoding, colors, and conversion between ids, colors and one-hot tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Self

import torch
import yaml
from torch import Tensor

from lab2pix.errors import LabelError, did_you_mean
from lab2pix.labels.colors import BAND, generate_colors, match_colors
from lab2pix.labels.reader import Color, MappingReader
from lab2pix.utils.files import expand_user
from lab2pix.utils.registry import is_yaml, label_space_names
from lab2pix.utils.text import reason_of
from lab2pix.utils.yaml_text import parse_yaml

__all__ = ["COLOR_TOLERANCE", "Color", "LabelClass", "LabelSpace"]

COLOR_TOLERANCE = 64.0
"""Euclidean distance in 8-bit RGB to the nearest class color beyond which a pixel is a stray."""
SEAM_WIDTH = 9
"""Side in pixels of the smallest square of strays treated as a wrong color rather than blending along a boundary."""

MAX_VALUE = 65535  # largest file value (16 bits)
_BLACK: Color = (0, 0, 0)


@dataclass(frozen=True)
class LabelClass:
    """One class.

    Attributes:
        name: name by which models and files know it.
        color: 8-bit RGB.
        foreground: whether its pixels have a larger weight in the adversarial loss (Eq. 9).
        value: value in files; None: the file offset of the label space plus the id.
        generated: whether the color was generated for display, so that it stands for the class in no file.
        title: name for people, in the painter; None: the name.
    """

    name: str
    color: Color
    foreground: bool = False
    value: int | None = None
    generated: bool = False
    title: str | None = None


@dataclass(frozen=True)
class LabelSpace:
    """Classes of a dataset, with their file encoding and colors.

    Canonical ids are used in memory: 0 to K-1 for the K classes in order, and K for unknown if the space has it.

    Attributes:
        name: name of the label space.
        classes: the K classes; the index is the canonical id.
        unknown_value: file value of unknown pixels (-1 then means unknown, too); None: every pixel has a class.
        file_offset: file value of class 0, of classes without a value of their own: canonical id = value - offset.
        unknown_color: 8-bit RGB of unknown pixels; None: black.
        unknown_foreground: whether unknown pixels are foreground.
        evaluation: evaluation id of each class, None for ignored classes; None: the canonical ids.
    """

    name: str
    classes: tuple[LabelClass, ...]
    unknown_value: int | None = None
    file_offset: int = 0
    unknown_color: Color | None = None
    unknown_foreground: bool = False
    evaluation: tuple[int | None, ...] | None = None

    def __post_init__(self) -> None:
        """Validate the label space.

        Raises:
            LabelError: there are no classes, two classes share a name or a file value, the offset or a value is out of
                range, or the number of evaluation ids is wrong.
        """
        if not self.classes:
            raise LabelError(f"Label space '{self.name}' has no classes; list at least one under 'classes'")
        doubles = sorted({name for name in self.names if self.names.count(name) > 1})
        if doubles:
            raise LabelError(f"Label space '{self.name}' names {doubles[0]!r} twice; give every class its own name")
        if not 0 <= self.file_offset <= MAX_VALUE:
            raise LabelError(f"Label space '{self.name}' has offset {self.file_offset}; it must be 0 to {MAX_VALUE}")
        if self.unknown_value is not None and not -1 <= self.unknown_value <= MAX_VALUE:
            raise LabelError(
                f"Label space '{self.name}' has unknown {self.unknown_value}; it must be -1 to {MAX_VALUE}"
            )
        self._check_values()
        if self.evaluation is not None and len(self.evaluation) != len(self.classes):
            raise LabelError(
                f"Label space '{self.name}' has {len(self.evaluation)} evaluation ids for {len(self.classes)} classes"
            )

    def _check_values(self) -> None:
        seen: dict[int, str] = {}
        for item, value in zip(self.classes, self.class_values, strict=True):
            if not 0 <= value <= MAX_VALUE:
                raise LabelError(f"Label space '{self.name}' has value {value}; it must be 0 to {MAX_VALUE}")
            if value == self.unknown_value:
                raise LabelError(
                    f"Label space '{self.name}' uses the value {value} both for unknown and for class '{item.name}'; "
                    "choose another for unknown"
                )
            if value in seen:
                raise LabelError(
                    f"Label space '{self.name}' uses the value {value} both for class '{seen[value]}' and for class "
                    f"'{item.name}'; give every class its own `value`"
                )
            seen[value] = item.name

    @property
    def num_classes(self) -> int:
        """Number of classes K, without unknown."""
        return len(self.classes)

    @property
    def num_channels(self) -> int:
        """Channels of the one-hot tensor: K, plus one if the space has unknown."""
        return len(self.classes) + (self.unknown_value is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, ordered by id."""
        return tuple(item.name for item in self.classes)

    @property
    def class_values(self) -> tuple[int, ...]:
        """File values of the classes, ordered by id."""
        return tuple(
            self.file_offset + index if item.value is None else item.value for index, item in enumerate(self.classes)
        )

    @property
    def background_ids(self) -> tuple[int, ...]:
        """Canonical ids of the background, including K if unknown is background."""
        ids = [index for index, item in enumerate(self.classes) if not item.foreground]
        if self.unknown_value is not None and not self.unknown_foreground:
            ids.append(self.num_classes)
        return tuple(ids)

    @classmethod
    def load(cls, source: str | Path | Mapping[str, Any]) -> Self:
        """Load a built-in label space by name, one from a YAML file, or one from plain values.

        Raises:
            LabelError: the name or file does not exist, or the content is not valid for `from_dict`.
        """
        if isinstance(source, Mapping):
            return cls.from_dict(source)
        text = str(source)
        if text in label_space_names():
            entry = resources.files("lab2pix").joinpath("labels", "spaces", f"{text}.yaml")
            return cls.from_dict(parse_yaml(entry.read_text(encoding="utf-8")), where=f"label space '{text}'")
        if not is_yaml(text):
            hint = did_you_mean(text, label_space_names())
            raise LabelError(f"No label space is called '{text}'{hint}, or give the path of a YAML file")
        path = expand_user(source)
        try:
            data = parse_yaml(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise LabelError(f"Cannot read the label space {path}: {error.strerror or error}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise LabelError(
                f"The label space {path} is not valid YAML ({reason_of(error)}); correct the file"
            ) from error
        return cls.from_dict({"name": path.stem, **data} if isinstance(data, dict) else data, where=str(path))

    @classmethod
    def from_dict(cls, data: Any, where: str = "label space") -> Self:
        """Create a label space from plain values, as in YAML files and from `to_dict`.

        The keys are the attributes of this class. Each entry of `classes` is a name or a mapping with `name`, `color`
        (generated by default), `foreground`, `value`, `evaluation` and `title`.

        Raises:
            LabelError: a key is unknown, missing or of the wrong type.
        """
        keys = {"name", "classes", "file_offset", "unknown_value", "unknown_color", "unknown_foreground"}
        values = MappingReader(data, where, keys)
        entries = values.get("classes", list, [])
        colors = generate_colors(len(entries))
        classes, evaluation = [], []
        for index, entry in enumerate(entries):
            item = MappingReader(
                {"name": entry} if isinstance(entry, str) else entry,
                f"{where}, classes[{index}]",
                {"name", "color", "foreground", "value", "evaluation", "title"},
            )
            name, foreground, color = item.get("name", str), item.get("foreground", bool, False), item.color("color")
            value, title = item.get("value", int, None), item.get("title", str, None)
            shown = color or colors[index]
            classes.append(LabelClass(name, shown, foreground, value, generated=color is None, title=title))
            evaluation.append(item.get("evaluation", int, None))
        return cls(
            name=values.get("name", str),
            classes=tuple(classes),
            unknown_value=values.get("unknown_value", int, None),
            file_offset=values.get("file_offset", int, 0),
            unknown_color=values.color("unknown_color"),
            unknown_foreground=values.get("unknown_foreground", bool, False),
            evaluation=tuple(evaluation) if any(value is not None for value in evaluation) else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON or YAML, the inverse of `from_dict`; generated colors are left out."""
        evaluation = self.evaluation or (None,) * self.num_classes
        classes: list[dict[str, Any]] = []
        for item, target in zip(self.classes, evaluation, strict=True):
            entry: dict[str, Any] = {"name": item.name, "foreground": item.foreground}
            color = None if item.generated else list(item.color)
            given = {"color": color, "value": item.value, "evaluation": target, "title": item.title}
            classes.append(entry | {key: value for key, value in given.items() if value is not None})
        keys = ("name", "file_offset", "unknown_value", "unknown_foreground")
        plain = {key: getattr(self, key) for key in keys}
        unknown_color = None if self.unknown_color is None else list(self.unknown_color)
        return {**plain, "unknown_color": unknown_color, "classes": classes}

    def differences(self, other: Self, *, colors: bool = True) -> list[str]:
        """Describe what differs from another label space, besides the name and titles: `key: this / other`."""
        both = ({**space.to_dict(), "name": "", "number of classes": space.num_classes} for space in (self, other))
        mine, theirs = both
        classes = enumerate(zip(mine.pop("classes"), theirs.pop("classes"), strict=False))
        parts = [("", mine, theirs), *((f"classes[{index}].", one, two) for index, (one, two) in classes)]
        return [
            f"{where}{key}: {one.get(key)} / {two.get(key)}"
            for where, one, two in parts
            for key in {**one, **two}
            if one.get(key) != two.get(key) and key != "title" and (colors or key not in ("color", "unknown_color"))
        ]

    def fingerprint(self) -> str:
        """Return a hash of what networks depend on: the ordered class names, and whether there is unknown."""
        meaning = json.dumps([list(self.names), self.unknown_value is not None])
        return hashlib.sha256(meaning.encode()).hexdigest()[:16]

    @cached_property
    def palette(self) -> Tensor:
        """Colors by canonical id, for display: `[num_channels, 3]` uint8."""
        colors = [item.color for item in self.classes]
        if self.unknown_value is not None:
            colors.append(self.unknown_color or _BLACK)
        return torch.tensor(colors, dtype=torch.uint8)

    @cached_property
    def file_colors(self) -> dict[Color, int]:
        """Canonical id by color, of the colors that stand for a class in files.

        These are the colors that the label space gives, and black for unknown if it gives any. Of classes that share
        one (as some of Cityscapes do), the lowest counts.
        """
        given = {item.color: index for index, item in reversed(list(enumerate(self.classes))) if not item.generated}
        if given and self.unknown_value is not None:
            given.setdefault(self.unknown_color or _BLACK, self.num_classes)
        return dict(sorted(given.items(), key=lambda pair: pair[1]))

    @cached_property
    def file_values(self) -> dict[int, int]:
        """Canonical id by file value, including unknown and -1."""
        values = {value: index for index, value in enumerate(self.class_values)}
        unknown = () if self.unknown_value is None else (self.unknown_value, -1)
        return values | dict.fromkeys(unknown, self.num_classes)

    def decode_ids(self, values: Tensor, where: str, *, dtype: torch.dtype = torch.int64) -> Tensor:
        """Decode file values to canonical ids.

        Args:
            values: integers of any shape, usually `[H, W]`.
            where: name of the map in errors, usually the file.
            dtype: dtype of the ids; must hold all of them.

        Returns:
            Ids of the same shape.

        Raises:
            LabelError: a value is neither a class nor unknown.
        """
        if values.numel() == 0:
            return values.to(dtype)
        # One extra entry at the end, which index -1 addresses.
        table = torch.full((MAX_VALUE + 2,), -1)
        table[list(self.file_values)] = torch.tensor(list(self.file_values.values()))
        ids, wrong = torch.empty(values.shape, dtype=dtype, device=values.device), []
        table = table.to(values.device)
        for part, target in zip(torch.split(values.reshape(-1), BAND), torch.split(ids.view(-1), BAND), strict=True):
            whole = part.long()
            found = torch.where((whole < -1) | (whole > MAX_VALUE), -1, table[whole.clamp(-1, MAX_VALUE)])
            target.copy_(found)
            wrong.append(torch.unique(whole[found < 0]))
        if strange := torch.cat(wrong).tolist():
            raise LabelError(self._range_message(sorted(set(strange)), where))
        return ids

    def _range_message(self, found: Sequence[int], where: str) -> str:
        """Return the error message for values outside the label space."""
        listed = ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
        values = sorted(self.class_values)
        whole = values == list(range(values[0], values[-1] + 1))
        valid = f"{values[0]} to {values[-1]}" if whole else ", ".join(map(str, values))
        unknown = "" if self.unknown_value is None else f" and {self.unknown_value} for unknown"
        return (
            f"{where} holds {'ids' if len(found) > 1 else 'id'} {listed}, but label space '{self.name}' has {valid}"
            f"{unknown}; choose the label space that the file was made for, give classes the `value` that files hold, "
            "or correct the file"
        )

    def decode_colors(
        self, rgb: Tensor, where: str, tolerance: float = COLOR_TOLERANCE, *, dtype: torch.dtype = torch.int64
    ) -> Tensor:
        """Decode a colored label map to canonical ids: each pixel gets the class of the nearest color.

        Lossy compression blends colors along class boundaries. In a map with more than twice as many colors as the
        space, pixels farther than `tolerance` from every class color (strays) therefore take the class of a neighbor.
        This requires that no square of `SEAM_WIDTH` pixels is full of strays, and that two fifths of all pixels are
        within a quarter of `tolerance`. In a map with fewer colors every pixel must be within a quarter of
        `tolerance`. Only colors that the label space gives count (`file_colors`).

        Args:
            rgb: `[3, H, W]` uint8.
            where: name of the map in errors, usually the file.
            tolerance: Euclidean distance in 8-bit RGB up to which a pixel belongs to its nearest class.
            dtype: dtype of the ids; must hold all of them.

        Returns:
            `[H, W]` ids.

        Raises:
            LabelError: there are colors outside the label space, or it gives none.
        """
        if not self.file_colors:
            raise LabelError(
                f"{where} is in color, but label space '{self.name}' gives no colors; give every class its "
                "`color`, or save ids as gray PNG"
            )
        found = match_colors(
            rgb,
            torch.tensor(list(self.file_colors), dtype=torch.uint8),
            many=2 * self.num_channels,
            stray=tolerance,
            unsure=tolerance / 4,
            seam=SEAM_WIDTH,
            ids=torch.tensor(list(self.file_colors.values()), dtype=dtype),
        )
        if found.spotted or found.share > (0.6 if found.noisy else 0.0):
            raise LabelError(
                f"{where} has colors that are not in label space '{self.name}', such as {found.color}, in "
                f"{found.share:.1%} of its pixels: choose the label space that the file was made for, or add the color"
            )
        return found.ids

    def encode_values(self, ids: Tensor) -> Tensor:
        """Encode canonical ids as file values, the inverse of `decode_ids`."""
        values = list(self.class_values) + ([] if self.unknown_value is None else [self.unknown_value])
        return torch.tensor(values, device=ids.device)[ids]

    def to_colors(self, ids: Tensor) -> Tensor:
        """Convert canonical ids to colors: `[H, W]` to `[3, H, W]` uint8, `[N, H, W]` to `[N, 3, H, W]`."""
        return self.palette.to(ids.device)[ids].movedim(-1, -3).contiguous()

    def one_hot(self, ids: Tensor) -> Tensor:
        """One-hot encode canonical ids `[N, H, W]` as network input (3.1): `[N, num_channels, H, W]` float32."""
        shape = (ids.shape[0], self.num_channels, *ids.shape[1:])
        return torch.zeros(shape, device=ids.device).scatter_(1, ids.unsqueeze(1), 1.0)

    def foreground(self, ids: Tensor, background_ids: Sequence[int] | None = None) -> Tensor:
        """Return the foreground mask (Eq. 9).

        Args:
            ids: canonical ids of any shape.
            background_ids: canonical ids of the background (K is unknown); None: those of the label space.

        Returns:
            bool mask of the same shape.

        Raises:
            LabelError: a background id is not in the label space.
        """
        background = list(self.background_ids if background_ids is None else background_ids)
        if strange := [index for index in background if not 0 <= index < self.num_channels]:
            valid = f"0 to {self.num_channels - 1} in label space '{self.name}'"
            raise LabelError(f"Background id {strange[0]} is invalid; ids are {valid}; correct loss.background_ids")
        table = torch.ones(self.num_channels, dtype=torch.bool)
        table[background] = False
        return table.to(ids.device)[ids]
