"""Commands that list and show presets."""

from __future__ import annotations

import typer

from lab2pix.cli.console import print_table
from lab2pix.cli.options import Overrides, Source

presets_app = typer.Typer(help="List the shipped recipes and the installed models, or show a recipe.")


@presets_app.callback()
def _presets(context: typer.Context) -> None:
    if context.invoked_subcommand is not None:
        return
    from lab2pix.inference.weights import shipped_models
    from lab2pix.recipes import preset_descriptions
    from lab2pix.utils.registry import MODEL_PACKAGES, model_folders

    print_table(("preset", "description"), preset_descriptions().items())
    found = {name: str(file.parent) for name, file in shipped_models().items()}
    missing = {name: f"not installed; in a clone, run `{command}`" for name, command in MODEL_PACKAGES.items()}
    missing |= dict.fromkeys(model_folders(), "installed without weights")
    print()
    print_table(("trained model", "where it is"), (missing | found).items())


@presets_app.command("show")
def _presets_show(source: Source, overrides: Overrides = None) -> None:
    """Print all settings of a recipe as YAML."""
    from lab2pix.recipes import load_config, to_yaml

    print(to_yaml(load_config(source, overrides or ())), end="")
