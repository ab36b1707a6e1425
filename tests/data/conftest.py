"""Files and folders without permission, also for tests that run as root."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Lock = Callable[[Path], None]


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> Lock:
    """Locks a file or folder: it cannot be opened or listed any more."""
    paths: set[str] = set()

    def guard(call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(path: Any = ".", *args: Any, **options: Any) -> Any:
            if isinstance(path, str | Path) and str(path) in paths:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return call(path, *args, **options)

        return guarded

    monkeypatch.setattr(os, "scandir", guard(os.scandir))
    monkeypatch.setattr(os, "listdir", guard(os.listdir))
    monkeypatch.setattr(builtins, "open", guard(builtins.open))
    monkeypatch.setattr(io, "open", guard(io.open))
    return lambda path: paths.add(str(path))
