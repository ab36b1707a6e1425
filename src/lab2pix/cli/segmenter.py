"""Verbs that train and check the networks that read label maps in pictures."""

from __future__ import annotations

import typer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Train or check networks that read label maps in pictures.")
