"""Verbs of the user study (Table 6)."""

from __future__ import annotations

import typer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Let people rank pictures of several methods (Table 6).")
