"""Typed access to the plain values of a label space file, with errors that name the key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lab2pix.errors import LabelError, did_you_mean

Color = tuple[int, int, int]
"""8-bit RGB."""


class MappingReader:
    """Typed access to a mapping.

    Args:
        data: the mapping.
        where: name in errors.
        keys: valid keys.

    Raises:
        LabelError: not a mapping, or an unknown key.
    """

    def __init__(self, data: Any, where: str, keys: set[str]) -> None:
        if not isinstance(data, Mapping):
            raise LabelError(
                f"In {where}: expected a mapping with {', '.join(sorted(keys))}, found {data!r}; a name that reads as "
                "a number, true, false or null needs quotes"
            )
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
            hint = " (put it in quotes)" if kind is str else ""
            raise LabelError(f"In {self.where}: '{key}' must be of type {kind.__name__}{hint}, found {value!r}")
        return value

    def color(self, key: str) -> Color | None:
        """Return a color, or None if it is missing."""
        value = self.get(key, list, None)
        if value is None:
            return None
        if len(value) != 3 or not all(type(part) is int and 0 <= part <= 255 for part in value):
            raise LabelError(f"In {self.where}: '{key}' must be three numbers from 0 to 255, found {value!r}")
        return value[0], value[1], value[2]
