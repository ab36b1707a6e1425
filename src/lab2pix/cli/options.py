"""Arguments and options shared by several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[str, typer.Argument(metavar="PRESET_OR_FILE", help="Preset (see `lab2pix presets`) or YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to override, such as train.batch_size=4.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps; default: the fastest available.")]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.")]
Root = Annotated[Path, typer.Argument(help="Folder of the dataset.")]
FormatOption = Annotated[str, typer.Option(help="Dataset format; see `lab2pix data formats`.")]
Labels = Annotated[
    str | None, typer.Option(help="Label space, by name or as a YAML file; default: that of the format.")
]
Split = Annotated[str | None, typer.Option(help="Only this split, such as train.")]
Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 accepts other machines.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 selects a free one.")]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Additional host name of the page, such as that of a proxy; repeatable."),
]
Browser = Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")]
