"""Verbs that put reports side by side: compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer()


@app.command("compare")
def _compare(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT...", help="Files of `lab2pix evaluate`.")],
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder for compare.md, compare.html, compare.png.", show_default=False)
    ] = None,
    allow_different: Annotated[bool, typer.Option("--allow-different", help="Go on where protocols differ.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a comparison that is there.")] = False,
) -> None:
    """Put reports side by side; those of one name are one method with several seeds."""
    from lab2pix.evaluation.compare import compare

    comparison = compare(reports, allow_different=allow_different)
    print(comparison.markdown())
    if out is not None:
        comparison.write(out, overwrite=overwrite)
        print(f"\n{out / 'compare.html'}")
