"""Verbs that judge pictures: evaluate."""

from __future__ import annotations

import typer

__all__ = ["app"]

app = typer.Typer()
