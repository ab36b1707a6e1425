"""Commands that list and show presets."""

from __future__ import annotations

import typer

from lab2pix.cli.console import print_table
from lab2pix.cli.options import Overrides, Source

presets_app = typer.Typer(help="List the shipped recipes, or show one.")


@presets_app.callback()
def _presets(context: typer.Context) -> None:
    from lab2pix.recipes import preset_descriptions

    if context.invoked_subcommand is None:
        print_table(("preset", "description"), preset_descriptions().items())


@presets_app.command("show")
def _presets_show(source: Source, overrides: Overrides = None) -> None:
    """Print all settings of a recipe as YAML."""
    from lab2pix.recipes import load_config, to_yaml

    print(to_yaml(load_config(source, overrides or ())), end="")
