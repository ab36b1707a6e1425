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
from lab2pix.labels.colors import BAND, match_colors
from lab2pix.utils.registry import label_space_names
from lab2pix.utils.text import reason_of

__all__ = ["COLOR_TOLERANCE", "LabelClass", "LabelSpace", "generate_colors"]

COLOR_TOLERANCE = 64.0
"""Euclidean distance in 8-bit RGB to the nearest class color beyond which a pixel is a stray."""
SEAM_WIDTH = 9
"""Side in pixels of the smallest square of strays treated as a wrong color rather than blending along a boundary."""

Color = tuple[int, int, int]
MAX_VALUE = 65535  # largest file value (16 bits)

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml reads many times faster than the loader in Python


@dataclass(frozen=True)
class LabelClass:
    """One class.

    Attributes:
        name: display name.
        color: 8-bit RGB.
        foreground: whether its pixels have a larger weight in the adversarial loss (Eq. 9).
    """

    name: str
    color: Color
    foreground: bool = False


@dataclass(frozen=True)
class LabelSpace:
    """Classes of a dataset, with their file encoding and colors.

    Canonical ids are used in memory: 0 to K-1 for the K classes in order, and K for unknown if the space has it.

    Attributes:
        name: name of the label space.
        classes: the K classes; the index is the canonical id.
        unknown_value: file value of unknown pixels (-1 then means unknown, too); None: every pixel has a class.
        file_offset: file value of class 0: canonical id = value - offset.
        unknown_color: 8-bit RGB of unknown pixels.
        unknown_foreground: whether unknown pixels are foreground.
        evaluation: evaluation id of each class, None for ignored classes; None: the canonical ids.
    """

    name: str
    classes: tuple[LabelClass, ...]
    unknown_value: int | None = None
    file_offset: int = 0
    unknown_color: Color = (0, 0, 0)
    unknown_foreground: bool = False
    evaluation: tuple[int | None, ...] | None = None

    def __post_init__(self) -> None:
        """Validate the label space.

        Raises:
            LabelError: there are no classes, two classes share a name, the offset or unknown value is out of range or
                in conflict with a class, or the number of evaluation ids is wrong.
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
        if self.unknown_value is not None and 0 <= self.unknown_value - self.file_offset < len(self.classes):
            raise LabelError(
                f"Label space '{self.name}' uses the value {self.unknown_value} both for unknown and for class "
                f"'{self.classes[self.unknown_value - self.file_offset].name}'; choose another for unknown"
            )
        if self.evaluation is not None and len(self.evaluation) != len(self.classes):
            raise LabelError(
                f"Label space '{self.name}' has {len(self.evaluation)} evaluation ids for {len(self.classes)} classes"
            )

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
    def background_ids(self) -> tuple[int, ...]:
        """Canonical ids of the background, including K if unknown is background."""
        ids = [index for index, item in enumerate(self.classes) if not item.foreground]
        if self.unknown_value is not None and not self.unknown_foreground:
            ids.append(self.num_classes)
        return tuple(ids)

    @classmethod
    def load(cls, name_or_path: str | Path) -> Self:
        """Load a built-in label space by name, or one from a YAML file.

        Raises:
            LabelError: the name or file does not exist, or the content is not valid for `from_dict`.
        """
        text = str(name_or_path)
        if text in label_space_names():
            source = resources.files("lab2pix").joinpath("labels", "spaces", f"{text}.yaml")
            return cls.from_dict(yaml.load(source.read_text(encoding="utf-8"), _LOADER), where=f"label space '{text}'")
        path = Path(name_or_path)
        if path.suffix not in {".yaml", ".yml"}:
            hint = did_you_mean(text, label_space_names())
            raise LabelError(f"No label space is called '{text}'{hint}, or give the path of a YAML file")
        try:
            data = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
        except OSError as error:
            raise LabelError(f"Cannot read the label space {path}: {error.strerror or error}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise LabelError(f"The label space {path} is not valid YAML ({reason_of(error)}); mend the file") from error
        return cls.from_dict({"name": path.stem, **data} if isinstance(data, dict) else data, where=str(path))

    @classmethod
    def from_dict(cls, data: Any, where: str = "label space") -> Self:
        """Create a label space from plain values, as in YAML files and from `to_dict`.

        The keys are the attributes of this class. Each entry of `classes` is a name or a mapping with `name`, `color`
        (generated by default), `foreground` and `evaluation`.

        Raises:
            LabelError: a key is unknown, missing or of the wrong type.
        """
        keys = {"name", "classes", "file_offset", "unknown_value", "unknown_color", "unknown_foreground"}
        values = _Reader(data, where, keys)
        entries = values.get("classes", list, [])
        colors = generate_colors(len(entries))
        classes, evaluation = [], []
        for index, entry in enumerate(entries):
            item = _Reader(
                {"name": entry} if isinstance(entry, str) else entry,
                f"{where}, classes[{index}]",
                {"name", "color", "foreground", "evaluation"},
            )
            name, foreground = item.get("name", str), item.get("foreground", bool, False)
            classes.append(LabelClass(name, item.color("color", colors[index]), foreground))
            evaluation.append(item.get("evaluation", int, None))
        return cls(
            name=values.get("name", str),
            classes=tuple(classes),
            unknown_value=values.get("unknown_value", int, None),
            file_offset=values.get("file_offset", int, 0),
            unknown_color=values.color("unknown_color", (0, 0, 0)),
            unknown_foreground=values.get("unknown_foreground", bool, False),
            evaluation=tuple(evaluation) if any(value is not None for value in evaluation) else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON or YAML, the inverse of `from_dict`."""
        evaluation = self.evaluation or (None,) * self.num_classes
        classes: list[dict[str, Any]] = []
        for item, target in zip(self.classes, evaluation, strict=True):
            entry: dict[str, Any] = {"name": item.name, "color": list(item.color), "foreground": item.foreground}
            classes.append(entry if target is None else {**entry, "evaluation": target})
        keys = ("name", "file_offset", "unknown_value", "unknown_foreground")
        plain = {key: getattr(self, key) for key in keys}
        return {**plain, "unknown_color": list(self.unknown_color), "classes": classes}

    def fingerprint(self) -> str:
        """Return a hash of what networks depend on: the ordered class names, and whether there is unknown."""
        meaning = json.dumps([list(self.names), self.unknown_value is not None])
        return hashlib.sha256(meaning.encode()).hexdigest()[:16]

    @cached_property
    def palette(self) -> Tensor:
        """Colors by canonical id: `[num_channels, 3]` uint8."""
        colors = [item.color for item in self.classes]
        if self.unknown_value is not None:
            colors.append(self.unknown_color)
        return torch.tensor(colors, dtype=torch.uint8)

    @cached_property
    def _distinct_ids(self) -> Tensor:
        """Canonical ids with distinct colors: the lowest of those that share one (as some of Cityscapes do)."""
        first = {color: index for index, color in reversed(list(enumerate(map(tuple, self.palette.tolist()))))}
        return torch.tensor(sorted(first.values()))

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
        table[self.file_offset : self.file_offset + self.num_classes] = torch.arange(self.num_classes)
        if self.unknown_value is not None:
            table[self.unknown_value] = table[-1] = self.num_classes
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
        valid = f"{self.file_offset} to {self.file_offset + self.num_classes - 1}"
        unknown = "" if self.unknown_value is None else f" and {self.unknown_value} for unknown"
        return (
            f"{where} holds {'ids' if len(found) > 1 else 'id'} {listed}, but label space '{self.name}' has {valid}"
            f"{unknown}; choose the label space that the file was made for, or mend the file"
        )

    def decode_colors(
        self, rgb: Tensor, where: str, tolerance: float = COLOR_TOLERANCE, *, dtype: torch.dtype = torch.int64
    ) -> Tensor:
        """Decode a colored label map to canonical ids: each pixel gets the class of the nearest color.

        Lossy compression blends colors along class boundaries. In a map with more than twice as many colors as the
        space, pixels farther than `tolerance` from every class color (strays) therefore take the class of a neighbor.
        This requires that no square of `SEAM_WIDTH` pixels is full of strays, and that two fifths of all pixels are
        within a quarter of `tolerance`. In a map with fewer colors every pixel must be within a quarter of
        `tolerance`. Of classes with the same color, the lowest id is used.

        Args:
            rgb: `[3, H, W]` uint8.
            where: name of the map in errors, usually the file.
            tolerance: Euclidean distance in 8-bit RGB up to which a pixel belongs to its nearest class.
            dtype: dtype of the ids; must hold all of them.

        Returns:
            `[H, W]` ids.

        Raises:
            LabelError: there are colors outside the label space.
        """
        found = match_colors(
            rgb,
            self.palette[self._distinct_ids],
            many=2 * self.num_channels,
            stray=tolerance,
            unsure=tolerance / 4,
            seam=SEAM_WIDTH,
            ids=self._distinct_ids.to(dtype),
        )
        if found.spotted or found.share > (0.6 if found.noisy else 0.0):
            raise LabelError(
                f"{where} holds colours that are no class of label space '{self.name}', such as {found.color}, in "
                f"{found.share:.1%} of its pixels: choose the label space that the file was made for, or add the colour"
            )
        return found.ids

    def encode_values(self, ids: Tensor) -> Tensor:
        """Encode canonical ids as file values, the inverse of `decode_ids`."""
        values = ids + self.file_offset
        return (
            values if self.unknown_value is None else torch.where(ids == self.num_classes, self.unknown_value, values)
        )

    def to_colors(self, ids: Tensor) -> Tensor:
        """Convert canonical ids to colors: `[H, W]` to `[3, H, W]` uint8, `[N, H, W]` to `[N, 3, H, W]`."""
        return self.palette.to(ids.device)[ids].movedim(-1, -3).contiguous()

    def one_hot(self, ids: Tensor) -> Tensor:
        """One-hot encode canonical ids `[N, H, W]` as network input (3.1): `[N, num_channels, H, W]` float32."""
        shape = (ids.shape[0], self.num_channels, *ids.shape[1:])
        return torch.zeros(shape, device=ids.device).scatter_(1, ids.unsqueeze(1), 1.0)

    def to_ids(self, one_hot: Tensor) -> Tensor:
        """Convert one-hot labels or scores `[N, num_channels, H, W]` to canonical ids `[N, H, W]` int64."""
        return one_hot.argmax(dim=1)

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
            raise LabelError(f"Background id {strange[0]} is no id, which are {valid}; correct loss.background_ids")
        table = torch.ones(self.num_channels, dtype=torch.bool)
        table[background] = False
        return table.to(ids.device)[ids]


def generate_colors(count: int) -> list[Color]:
    """Generate distinct colors, deterministically.

    Greedy farthest-point selection on a grid of 1331 colors, starting from black.
    """
    level = torch.linspace(0, 255, 11).round()
    grid = torch.cartesian_prod(level, level, level)
    distance = torch.linalg.vector_norm(grid, dim=1)  # to black, the default color of unknown
    chosen: list[Color] = []
    for _ in range(count):
        best = grid[int(distance.argmax())]
        chosen.append((int(best[0]), int(best[1]), int(best[2])))
        distance = torch.minimum(distance, torch.linalg.vector_norm(grid - best, dim=1))
    return chosen


class _Reader:
    """Typed access to a mapping, with errors that name the key."""

    def __init__(self, data: Any, where: str, keys: set[str]) -> None:
        if not isinstance(data, Mapping):
            raise LabelError(f"In {where}: expected a mapping with {', '.join(sorted(keys))}, found {data!r}")
        for key in data:
            if key not in keys:
                raise LabelError(f"In {where}: unknown key '{key}'{did_you_mean(str(key), keys)}")
        self.data, self.where = data, where

    def get(self, key: str, kind: type, *default: Any) -> Any:
        """Return a value of the given type, or the default if it is missing or null."""
        value = self.data.get(key)
        if value is None and default:
            return default[0]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise LabelError(f"In {self.where}: '{key}' must be of type {kind.__name__}, found {value!r}")
        return value

    def color(self, key: str, default: Color) -> Color:
        """Return a color, or the default if it is missing."""
        value = self.get(key, list, list(default))
        if len(value) != 3 or not all(type(part) is int and 0 <= part <= 255 for part in value):
            raise LabelError(f"In {self.where}: '{key}' must be three numbers from 0 to 255, found {value!r}")
        return value[0], value[1], value[2]
