"""Inference commands: generate, export, convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from lab2pix.cli.console import read_seed_pair, read_size, show_progress
from lab2pix.cli.options import Device, FormatOption, Seed, Split

__all__ = ["app"]


app = typer.Typer()


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
    format: FormatOption = "folder",
    split: Split = None,
    keep_size: Annotated[
        bool, typer.Option("--keep-size", help="Draw at each label map's own size, not the one trained at.")
    ] = False,
    scales: Annotated[
        bool, typer.Option("--scales", help="Write NAME_x2.png and NAME_x1.png, the smaller sizes of V1, as well.")
    ] = False,
    style: Annotated[
        Path | None,
        typer.Option(
            metavar="IMAGE", help="Draw in the style of this image (needs an image encoder).", show_default=False
        ),
    ] = None,
    label_space: Annotated[
        str | None,
        typer.Option(help="Refuse weights made for another label space than this one.", show_default=False),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Use a fused generator where that is faster: equal to 1e-4.")
    ] = False,
    optimize: Annotated[
        str | None,
        typer.Option(metavar="MODE", help="Force a way to draw: plain, fast or fast-bf16.", show_default=False),
    ] = None,
    device: Device = None,
) -> None:
    """Make pictures from label maps."""
    from lab2pix.errors import ConfigError
    from lab2pix.inference import Mode, Synthesizer, generate_folder
    from lab2pix.utils.distributed import barrier

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
            format=format,
            split=split,
            keep_size=keep_size,
            scales=scales,
            style=style,
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
    from lab2pix.inference import Synthesizer
    from lab2pix.inference.export import export

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
        str,
        typer.Option(
            "--from",
            metavar="FORM",
            help="Whose it is: lab2pix-v1-official, lab2pix-v2-official, or a method such as spade.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Empty or new folder for the converted weights.")],
    label_space: Annotated[
        str | None, typer.Option(help="What it was trained with; else the shipped one that fits.", show_default=False)
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Height and width it draws at; else the usual.", show_default=False),
    ] = None,
    num_upsamples: Annotated[
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
    from lab2pix.inference import convert

    sides = None if size is None else read_size(size)
    converted = convert(
        checkpoint,
        form,
        out,
        label_space=label_space,
        size=sides,
        num_upsamples=num_upsamples,
        instance_edges=instance_edges,
    )
    print(f"{converted}\nwritten to {out}")
