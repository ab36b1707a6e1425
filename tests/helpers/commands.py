"""The command line in this process, and how it fails."""

from __future__ import annotations

from collections.abc import Callable

Run = Callable[..., tuple[int, str, str]]
"""Runs a command; returns exit code, output and errors."""


def sentence(result: tuple[int, str, str], *parts: object) -> None:
    """Check that a command failed with exit code 2 and, last of all, one sentence that contains all the parts."""
    code, _, errors = result
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert code == 2, errors
    assert len(lines) == 1, errors
    assert errors.rstrip().endswith(lines[0]), errors
    assert "Traceback" not in errors
    for part in parts:
        assert str(part) in lines[0]
