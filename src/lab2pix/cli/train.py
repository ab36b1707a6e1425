"""Training commands: train, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lab2pix.cli.console import read_size
from lab2pix.cli.options import Device, Overrides, Seed

__all__ = ["app"]


app = typer.Typer()


@app.command("train")
def _train(
    source: Annotated[
        str | None, typer.Argument(metavar="PRESET_OR_FILE", help="A preset or a YAML file; not needed to resume.")
    ] = None,
    overrides: Overrides = None,
    *,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; else runs/NAME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the latest checkpoint in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be trained; write nothing.")] = False,
    device: Device = None,
) -> None:
    """Train networks; Ctrl-C writes a checkpoint and ends cleanly."""
    from lab2pix.recipes import load_config, require_data_root

    if source is not None and "=" in source and not Path(source).exists():  # overrides alone, with --resume
        overrides = [source, *(overrides or ())]
        source = None
    if source is None and (out is None or not resume or dry_run):
        raise typer.BadParameter("name a preset or a YAML file; only --resume with --out goes without")
    config = None if source is None else load_config(source, overrides or ())
    if source is None and out and overrides:
        from lab2pix.training import read_run_config

        config = load_config(read_run_config(out), overrides)
    if config and dry_run:
        from lab2pix.training.summary import summarize_run

        print(summarize_run(config))
    if config:
        require_data_root(config)
    if not dry_run:
        from lab2pix.training.loop import train

        run = out or Path("runs") / (config.name if config else "")
        raise typer.Exit(train(config, run, resume=resume, device=device).exit_code)


@app.command("demo")
def _demo(
    overrides: Overrides = None,
    *,
    method: Annotated[
        str, typer.Option(help="v2, from pairs; v1, without pairs; v1-sketch, from line drawings, without pairs.")
    ] = "v2",
    out: Annotated[Path | None, typer.Option(help="Folder for pictures, page and run; else demo, demo-v1, ...")] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="Time for everything.")] = 8,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Height and width in pixels; else as the preset has it.")
    ] = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Train on drawn landscapes for some minutes and show what came of it; again, to go on after Ctrl-C."""
    from lab2pix.demo import run_demo

    sides = None if size is None else read_size(size)
    result = run_demo(
        out or Path("demo" if method == "v2" else f"demo-{method}"),
        method=method,
        minutes=minutes,
        seed=seed,
        size=sides,
        device=device,
        overrides=tuple(overrides or ()),
    )
    raise typer.Exit(result.exit_code)
