"""Verbs that put reports side by side: compare."""

from __future__ import annotations

import typer

__all__ = ["app"]

app = typer.Typer()
