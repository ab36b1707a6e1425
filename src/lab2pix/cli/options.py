"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Device", "Labels", "Layout", "Overrides", "Root", "Seed", "Source", "Split"]

Source = Annotated[str, typer.Argument(metavar="PRESET_OR_FILE", help="A name from `lab2pix presets`, or a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change, such as train.batch_size=4.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps; else the best there is.", show_default=False)]
Seed = Annotated[int, typer.Option(min=0, help="Decides every random number.")]
Root = Annotated[Path, typer.Argument(help="The data set's folder.")]
Layout = Annotated[str, typer.Option(help="How the files lie; `lab2pix data layouts` lists them.")]
Labels = Annotated[str | None, typer.Option(help="Label space: a shipped name or a YAML file; else the layout's own.")]
Split = Annotated[str | None, typer.Option(help="One split only, such as train.", show_default=False)]
