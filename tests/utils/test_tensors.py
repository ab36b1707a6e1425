"""Safetensors files: permissions and errors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lab2pix.errors import CheckpointError
from lab2pix.utils.tensors import load_tensors, save_tensors


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int) -> None:
    file = tmp_path / "weights.safetensors"
    before = os.umask(umask)
    try:
        save_tensors({"a": torch.ones(2)}, file)
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o666 & ~umask
    assert load_tensors(file)["a"].tolist() == [1, 1]


def test_missing_is_told_from_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights.safetensors"
    with pytest.raises(FileNotFoundError):
        load_tensors(file)
    save_tensors({"a": torch.ones(2)}, file)

    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything, so a mode of 0 is not enough
    with pytest.raises(CheckpointError, match="no permission to read it"):
        load_tensors(file)
