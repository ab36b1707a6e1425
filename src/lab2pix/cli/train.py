"""Training commands: train, demo."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from lab2pix.cli.console import read_size
from lab2pix.cli.options import Device, Overrides, Seed

app = typer.Typer()


@app.command("train")
def _train(
    source: Annotated[
        str | None, typer.Argument(metavar="PRESET_OR_FILE", help="Preset or YAML file; not needed with --resume.")
    ] = None,
    overrides: Overrides = None,
    *,
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/NAME.")] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue from the latest checkpoint in --out; --resume auto also starts a new run."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print settings, sizes, and an estimate of time and memory, and exit.")
    ] = False,
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --dry-run: estimate for this GPU, such as a100.")
    ] = None,
    device: Device = None,
) -> None:
    """Train a model; Ctrl-C saves a checkpoint and stops."""
    from lab2pix.recipes import load_config, require_data_root

    words = [word for word in (source, *(overrides or ())) if word is not None]
    if auto := resume and "auto" in words:
        words.remove("auto")
    # With --resume there can be overrides alone.
    source = words.pop(0) if words and ("=" not in words[0] or Path(words[0]).exists()) else None
    overrides = words
    if source is None and (out is None or not resume or dry_run):
        raise typer.BadParameter("give a preset or a YAML file; it is optional only with --resume and --out")
    config = None if source is None else load_config(source, overrides or ())
    if source is None and out and overrides:
        from lab2pix.training import read_run_config

        config = load_config(read_run_config(out), overrides)
    if gpu is not None and not dry_run:
        raise typer.BadParameter("--gpu is for --dry-run only")
    if config and dry_run:
        from lab2pix.training.summary import summarize_run

        print(summarize_run(config, device=device, gpu=gpu))
    if config and not dry_run:
        require_data_root(config)
    if not dry_run:
        from lab2pix.training.loop import train
        from lab2pix.utils.distributed import DistributedContext

        run = out or Path("runs") / (config.name if config else "")
        resume = (run / "config.yaml").exists() if auto else resume
        result = train(config, run, resume=resume, device=device)
        if result.step == result.total_steps and DistributedContext.is_first():
            print(f"finished: {run}; next: lab2pix generate {shlex.quote(str(run))} LABELS --out images")
        raise typer.Exit(result.exit_code)


@app.command("demo")
def _demo(
    overrides: Overrides = None,
    *,
    method: Annotated[
        str, typer.Option(help="v2 (paired), v1 (unpaired) or v1-sketch (line drawings, unpaired).")
    ] = "v2",
    out: Annotated[
        Path | None, typer.Option(help="Folder for images, page and run; default: demo, demo-v1, ...")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="Total time in minutes.")] = 8,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Height and width in pixels; default: as in the preset.")
    ] = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Train on procedural landscapes for some minutes and show the images; repeat it to continue after Ctrl-C."""
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
