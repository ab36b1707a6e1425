"""Optional dependencies."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from lab2pix.errors import ConfigError

__all__ = ["import_extra"]


def import_extra(module: str, extra: str, purpose: str) -> Any:
    """Import a module of an optional dependency.

    Raises:
        ConfigError: the extra is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(f"{purpose} needs the extra '{extra}': pip install 'lab2pix[{extra}]'") from error
