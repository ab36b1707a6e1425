"""Inference commands: generate, export, convert."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from lab2pix.cli.console import read_seed_pair, read_size, show_progress
from lab2pix.cli.options import Device, FormatOption, Seed, Split

app = typer.Typer()


@app.command("generate")
def _generate(
    weights: Annotated[
        str, typer.Argument(metavar="RUN_OR_WEIGHTS", help="Run, checkpoint, weights file or hub name.")
    ],
    labels: Annotated[list[Path], typer.Argument(help="Label maps, or folders of them.")],
    *,
    out: Annotated[Path, typer.Option(help="Output folder.")],
    seed: Seed = 0,
    samples: Annotated[int, typer.Option(min=1, help="Number of images per label map.")] = 1,
    interpolate: Annotated[str | None, typer.Option(metavar="A,B", help="Interpolate from seed A to seed B.")] = None,
    steps: Annotated[int, typer.Option(min=2, help="Number of interpolated images.")] = 8,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing images.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass; changes speed and memory only.")] = 8,
    format: FormatOption = "folder",
    split: Split = None,
    keep_size: Annotated[
        bool, typer.Option("--keep-size", help="Generate at the size of each label map, not at the training size.")
    ] = False,
    scales: Annotated[
        bool,
        typer.Option(
            "--scales",
            help="Also write the smaller images of a generator with several sizes, as NAME_x2.png, NAME_x1.png.",
        ),
    ] = False,
    style: Annotated[
        Path | None, typer.Option(metavar="IMAGE", help="Draw in the style of this image (needs an image encoder).")
    ] = None,
    frames: Annotated[
        bool,
        typer.Option("--frames", help="Also write the images, sorted by name, as the film OUT/frames.mp4 or .webp."),
    ] = False,
    fps: Annotated[int, typer.Option(min=1, max=240, help="Frames per second of the film.")] = 24,
    label_space: Annotated[
        str | None,
        typer.Option(help="Require weights of this label space, and take the numbers of label maps for its ids."),
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Use a fused generator if it is faster; equal to 1e-4.")] = False,
    optimize: Annotated[
        str | None, typer.Option(metavar="MODE", help="Inference mode: plain, fast or fast-bf16.")
    ] = None,
    device: Device = None,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="local: this process; ray: a Ray cluster, whose machines share the folders."),
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Largest number of Ray's workers; default: all GPUs, or processors.")
    ] = None,
) -> None:
    """Generate images from label maps."""
    from lab2pix.errors import ConfigError
    from lab2pix.inference import Mode, Synthesizer, generate_folder
    from lab2pix.inference.film import film_path, write_film
    from lab2pix.inference.folder import has_known_values
    from lab2pix.utils.distributed import barrier

    if fast and optimize == "plain":
        raise ConfigError("--fast and --optimize plain contradict each other; omit one of them")
    if frames and (samples > 1 or interpolate or scales or "RANK" in os.environ):
        raise ConfigError(
            "--frames is a film of one image per label map by one process; omit --samples, --interpolate, "
            "--scales and torchrun"
        )
    if engine == "ray" and device is not None:
        raise ConfigError("Ray's workers take a GPU each where the cluster has GPUs; omit --device with --engine ray")
    if engine == "local" and workers is not None:
        raise ConfigError("--workers is the number of Ray's workers; omit it, or add --engine ray")
    film = film_path(out, overwrite=overwrite) if frames else None
    device = "cpu" if engine == "ray" else device  # the workers choose their own
    synthesizer = Synthesizer.load(weights, device=device, expect_label_space=label_space)
    if fast or optimize:
        print(f"mode: {synthesizer.optimize(cast(Mode, optimize or 'auto'))}")
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
            allow_bare_ids=label_space is not None or has_known_values(weights, format, synthesizer.label_space),
            engine=engine,
            workers=workers,
            on_progress=on_progress,
        )
    print(report)
    if film is not None and report.ok:
        write_film(film, [*report.written, *report.skipped], fps)
        print(f"{film} written")
    barrier()
    raise typer.Exit(0 if report.ok else 1)


@app.command("export")
def _export(
    weights: Annotated[str, typer.Argument(metavar="MODEL", help="Run, checkpoint, weights file or hub name.")],
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Output file, .onnx or .pt2, or a folder for weights.")
    ] = None,
    web: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write the painter as a web page without a server; needs --ort."),
    ] = None,
    ort: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Unpacked npm package onnxruntime-web, for --web.")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="onnx, torch (.pt2 of torch.export) or weights.")
    ] = "onnx",
    dynamic: Annotated[bool, typer.Option("--dynamic", help="Allow any batch size and image size.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Store float16: half the file size; equal to 3e-2.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Export a model to ONNX, torch.export or a web page, or only its weights for `lab2pix generate`."""
    from lab2pix.errors import ConfigError
    from lab2pix.inference import Synthesizer
    from lab2pix.inference.export import export

    if web is not None:
        if out is not None or dynamic or fp16 or form != "onnx":
            raise ConfigError("--web writes a page of its own form; omit --out, --format, --dynamic and --fp16")
        if ort is None:
            raise ConfigError("--web needs --ort, the folder of ONNX Runtime Web; see `npm pack onnxruntime-web`")
        _export_page(weights, web, ort, overwrite)
        return
    if out is None or ort is not None:
        raise ConfigError("give --out FILE, or --web FOLDER with --ort FOLDER")
    synthesizer = Synthesizer.load(weights, device="cpu")
    if form == "weights":
        if dynamic:
            raise ConfigError("--dynamic has no effect on weights, which work at any size; omit it")
        print(f"{synthesizer.save(out, overwrite=overwrite, half=fp16)} contains model.safetensors and config.json")
        return
    print(export(synthesizer, out, form=form, dynamic=dynamic, half=fp16, overwrite=overwrite))


def _export_page(model: str, out: Path, ort: Path, overwrite: bool) -> None:
    from lab2pix.inference import Synthesizer
    from lab2pix.web import require_web_extra

    require_web_extra()
    from lab2pix.web.standalone import export_page

    print(export_page(Synthesizer.load(model, device="cpu"), out, ort, overwrite=overwrite))


@app.command("convert")
def _convert(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of a generator, such as latest_net_G.pth.")],
    *,
    form: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="FORM",
            help="Whose it is: lab2pix-v1-official, lab2pix-v2-official, or a method such as spade.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="New or empty folder for the converted weights.")],
    label_space: Annotated[
        str | None, typer.Option(help="Label space of the checkpoint; default: the shipped one that fits.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Image height and width; default: the usual size.")
    ] = None,
    num_upsamples: Annotated[
        int | None, typer.Option(help="Number of upsamplings, where the weights do not determine it.")
    ] = None,
    instance_edges: Annotated[
        bool | None,
        typer.Option(
            "--instance-edges/--no-instance-edges", help="Whether the last input channel marks instance boundaries."
        ),
    ] = None,
    reverse: Annotated[
        bool, typer.Option("--reverse", help="Take the generator from B to A, of a checkpoint with both directions.")
    ] = False,
) -> None:
    """Convert a checkpoint of official code for `lab2pix generate`."""
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
        reverse=reverse,
    )
    print(f"{converted}\nwritten to {out}")
