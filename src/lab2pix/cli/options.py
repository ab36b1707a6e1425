"""Arguments and options shared by several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AllowHost",
    "Browser",
    "Device",
    "FormatOption",
    "Host",
    "Labels",
    "Overrides",
    "Port",
    "Root",
    "Seed",
    "Source",
    "Split",
]

Source = Annotated[str, typer.Argument(metavar="PRESET_OR_FILE", help="A name from `lab2pix presets`, or a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change, such as train.batch_size=4.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps; else the best there is.")]
Seed = Annotated[int, typer.Option(min=0, help="Decides every random number.")]
Root = Annotated[Path, typer.Argument(help="The data set's folder.")]
FormatOption = Annotated[str, typer.Option(help="How the files lie; `lab2pix data formats` lists them.")]
Labels = Annotated[str | None, typer.Option(help="Label space: a shipped name or a YAML file; else the format's own.")]
Split = Annotated[str | None, typer.Option(help="One split only, such as train.")]
Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A further name that the page is reached by, such as a proxy's; repeatable."),
]
Browser = Annotated[bool, typer.Option("--browser/--no-browser", help="Show the page in this browser.")]
