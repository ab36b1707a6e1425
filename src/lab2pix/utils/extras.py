"""Optional dependencies."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import Any

from lab2pix.errors import ConfigError


def import_extra(module: str, extra: str, purpose: str) -> Any:
    """Import a module of an optional dependency.

    Raises:
        ConfigError: the extra is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(f"{purpose} needs the extra '{extra}': {install_command(extra)}") from error


def install_command(extra: str) -> str:
    """Return the command that installs an extra, wherever this package came from: a clone, a wheel or an index."""
    try:
        requirements = metadata.requires("lab2pix") or []
    except metadata.PackageNotFoundError:  # a source tree that is not installed
        return f"pip install '.[{extra}]' in the source tree"
    split = (requirement.partition(";") for requirement in requirements)
    wanted = [name.strip() for name, _, marker in split if f'extra == "{extra}"' in marker.replace("'", '"')]
    return "pip install " + " ".join(f"'{name}'" for name in wanted)
