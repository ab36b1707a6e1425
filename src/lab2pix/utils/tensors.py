"""Safetensors files with the permissions of any other new file, and errors that tell their causes apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from lab2pix.errors import CheckpointError


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors to a safetensors file, readable by whom the umask allows.

    The library itself creates files that only their owner can read.

    Raises:
        OSError, SafetensorError: the file cannot be written.
    """
    path.touch()
    mode = path.stat().st_mode & 0o777
    save_file(dict(tensors), path, metadata={"format": "pt"})
    path.chmod(mode)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: the user has no permission to read the file.
        FileNotFoundError: it does not exist.
        OSError, SafetensorError, ValueError: it is damaged or of another format.
    """
    try:
        path.open("rb").close()  # the library reports every error of opening as a missing file
    except PermissionError as error:
        raise CheckpointError(
            f"{path} exists, but this user has no permission to read it; ask its owner to allow it (chmod a+r)"
        ) from error
    return load_file(path)
