"""Verbs that train, and that make pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from lab2pix.cli.options import Device, Layout, Overrides, Seed, Split
from lab2pix.terminal import read_seed_pair, read_size, show_progress

__all__ = ["app"]

app = typer.Typer()


@app.command("train")
def _train(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="PRESET_OR_FILE", help="A preset or a YAML file; not needed to resume.", show_default=False
        ),
    ] = None,
    overrides: Overrides = None,
    *,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; else runs/NAME.", show_default=False)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the latest checkpoint in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be trained; write nothing.")] = False,
    device: Device = None,
) -> None:
    """Train networks; Ctrl-C writes a checkpoint and ends cleanly."""
    from lab2pix.configuration import load_config, require_data_root

    if source is not None and "=" in source and not Path(source).exists():  # settings alone, of the run to resume
        overrides = [source, *(overrides or ())]
        source = None
    if source is None and (out is None or not resume or dry_run):
        raise typer.BadParameter("name a preset or a YAML file; only --resume with --out goes without")
    config = None if source is None else load_config(source, overrides or ())
    if source is None and out and overrides:
        from lab2pix.training import read_run_config

        config = load_config(read_run_config(out), overrides)
    if config and dry_run:
        from lab2pix.plan import summarize_run

        print(summarize_run(config))
    if config:
        require_data_root(config)
    if not dry_run:
        from lab2pix.training.loop import train

        run = out or Path("runs") / (config.name if config else "")
        raise typer.Exit(train(config, run, resume=resume, device=device).exit_code)


@app.command("generate")
def _generate(
    weights: Annotated[
        str, typer.Argument(metavar="RUN_OR_WEIGHTS", help="Run, checkpoint, weights file or hub name.")
    ],
    labels: Annotated[Path, typer.Argument(help="A label map, or a folder of them.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    seed: Seed = 0,
    samples: Annotated[int, typer.Option(min=1, help="Different pictures per label map.")] = 1,
    interpolate: Annotated[
        str | None, typer.Option(metavar="A,B", help="Go from seed A to seed B instead.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="Pictures on the way from A to B.")] = 8,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make pictures anew that are there already.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at once; changes speed and memory only.")] = 8,
    layout: Layout = "folder",
    split: Split = None,
    keep_size: Annotated[
        bool, typer.Option("--keep-size", help="Draw at each label map's own size, not the one trained at.")
    ] = False,
    scales: Annotated[
        bool, typer.Option("--scales", help="Write NAME_x2.png and NAME_x1.png, the smaller sizes of V1, as well.")
    ] = False,
    label_space: Annotated[
        str | None,
        typer.Option(help="Refuse weights made for another label space than this one.", show_default=False),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Draw through a prepared generator where that is faster: equal to 1e-4.")
    ] = False,
    optimize: Annotated[
        str | None,
        typer.Option(metavar="MODE", help="Force a way to draw: plain, fast or fast-bf16.", show_default=False),
    ] = None,
    device: Device = None,
) -> None:
    """Make pictures from label maps."""
    from lab2pix.devices import barrier
    from lab2pix.errors import ConfigError
    from lab2pix.synthesis import Mode, Synthesizer, generate_folder

    if fast and optimize == "plain":
        raise ConfigError("--fast and --optimize plain contradict each other; leave one of them out")
    synthesizer = Synthesizer.load(weights, device=device, expect_label_space=label_space)
    if fast or optimize:
        print(f"drawing: {synthesizer.optimize(cast(Mode, optimize or 'auto'))}")
    with show_progress("label maps") as on_progress:
        report = generate_folder(
            synthesizer,
            labels,
            out,
            seed=seed,
            samples=samples,
            interpolate=read_seed_pair(interpolate),
            steps=steps,
            overwrite=overwrite,
            batch_size=batch_size,
            layout=layout,
            split=split,
            keep_size=keep_size,
            scales=scales,
            on_progress=on_progress,
        )
    print(report)
    barrier()
    raise typer.Exit(0 if report.ok else 1)


@app.command("export")
def _export(
    weights: Annotated[str, typer.Argument(metavar="MODEL", help="Run, checkpoint, weights file or hub name.")],
    *,
    out: Annotated[Path, typer.Option(metavar="PATH", help="The program, .onnx or .pt2; for weights a folder.")],
    form: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="onnx, torch for torch.export's .pt2, or weights.")
    ] = "onnx",
    dynamic: Annotated[bool, typer.Option("--dynamic", help="Let the number of pictures and their size vary.")] = False,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="In float16: half the file; programs are equal to 3e-2.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Write a program that draws without this package, or the weights alone, as `lab2pix generate` takes them."""
    from lab2pix.errors import ConfigError
    from lab2pix.synthesis import Synthesizer
    from lab2pix.synthesis.exporting import export

    synthesizer = Synthesizer.load(weights, device="cpu")
    if form == "weights":
        if dynamic:
            raise ConfigError("--dynamic is for programs, weights draw any size; leave it out")
        print(f"{synthesizer.save(out, overwrite=overwrite, half=fp16)} holds model.safetensors and config.json")
        return
    print(export(synthesizer, out, form=form, dynamic=dynamic, half=fp16, overwrite=overwrite))


@app.command("convert")
def _convert(
    checkpoint: Annotated[Path, typer.Argument(help="A generator's file, such as latest_net_G.pth.")],
    *,
    form: Annotated[
        str, typer.Option("--from", metavar="FORM", help="lab2pix-v1-released, lab2pix-v2-released or spade.")
    ],
    out: Annotated[Path, typer.Option(help="Empty or new folder for the converted weights.")],
    label_space: Annotated[
        str | None, typer.Option(help="What it was trained with; else the shipped one that fits.", show_default=False)
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Height and width it draws at; else the usual.", show_default=False),
    ] = None,
    doublings: Annotated[
        int | None, typer.Option(help="5 or 6, which SPADE's weights do not tell.", show_default=False)
    ] = None,
    instance_edges: Annotated[
        bool | None,
        typer.Option(
            "--instance-edges/--no-instance-edges",
            help="Whether the last channel marks borders between instances.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Turn an authors' checkpoint into weights that generate takes."""
    from lab2pix.synthesis import convert

    sides = None if size is None else read_size(size)
    converted = convert(
        checkpoint,
        form,
        out,
        label_space=label_space,
        size=sides,
        doublings=doublings,
        instance_edges=instance_edges,
    )
    print(f"{converted}\nwritten to {out}")


@app.command("demo")
def _demo(
    overrides: Overrides = None,
    *,
    method: Annotated[
        str, typer.Option(help="v2, from pairs; v1, without pairs; v1-sketch, from line drawings, without pairs.")
    ] = "v2",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for pictures, page and run; else demo, demo-v1, ...", show_default=False),
    ] = None,
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


@app.command("parity")
def _parity(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE_OR_FOLDER...", help="Golden vectors to check against.")],
    *,
    fast: Annotated[bool, typer.Option("--fast", help="Let prepared generators answer, where there are any.")] = False,
) -> None:
    """Compare this package's networks and losses with recorded ones; exit 1 on any difference."""
    from lab2pix.interop.parity import run_parity

    raise typer.Exit(0 if run_parity(paths, fast=fast) else 1)
