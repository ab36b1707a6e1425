"""The `label` command, which makes label maps from photos."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from lab2pix.cli.console import show_progress
from lab2pix.cli.options import Device
from lab2pix.errors import ConfigError

app = typer.Typer()


@app.command("label")
def _label(
    context: typer.Context,
    photos: Annotated[Path, typer.Argument(help="Folder of photos.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the dataset; a second run continues the first.")],
    segmenter: Annotated[
        str | None,
        typer.Option(
            metavar="SEGMENTER",
            help="hf:NAME, torchvision:NAME, a folder of `lab2pix segmenter train`, an exported program, or the name "
            "of an installed one; default: landscapes, where it is installed.",
        ),
    ] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Draw the edges of the photos instead: sketches.")] = False,
    sigma: Annotated[
        float, typer.Option(min=0.1, max=20, metavar="PIXELS", help="Blur before --lines; more gives fewer lines.")
    ] = 2.0,
    classes: Annotated[
        Path | None, typer.Option(help="YAML file of classes, which may merge, rename and drop the segmenter's.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Pixels less probable than this become unknown.")
    ] = 0.5,
    least_region: Annotated[
        int, typer.Option(min=0, metavar="PIXELS", help="Smaller regions are given to their neighbors.")
    ] = 64,
    snap: Annotated[
        float,
        typer.Option(
            min=0, max=100, help="Reach of edges to those of the photo, in thousandths of its longest side; 0: off."
        ),
    ] = 6.0,
    longest_side: Annotated[
        int | None,
        typer.Option(min=32, metavar="PIXELS", help="Segment photos at most this large; default: 1024, for lines 256."),
    ] = None,
    val_share: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the photos in split val.")] = 0.1,
    device: Device = None,
) -> None:
    """Label photos by semantic segmentation, or sketch them: write a dataset and a sheet, and check it."""
    from lab2pix.evaluation.segmenters import default_segmenter

    segmenter = segmenter or (None if lines else default_segmenter())
    _check_options(context, lines, segmenter)
    from lab2pix.data.check import check_dataset
    from lab2pix.data.contact_sheet import draw_sheet
    from lab2pix.evaluation.segmenter_base import Segmenter
    from lab2pix.evaluation.segmenters import load_segmenter
    from lab2pix.inference.label_classes import ClassMapping
    from lab2pix.inference.label_edges import EdgeDetector
    from lab2pix.inference.label_photos import CLASSES_FILE, LabelSettings, label_photos
    from lab2pix.utils.distributed import choose_device
    from lab2pix.utils.files import write_png

    network: Segmenter
    if segmenter is None:
        edges = EdgeDetector(sigma)
        network, mapping = edges, edges.mapping
        settings = LabelSettings(0, 0, 0, longest_side or 256, val_share)
    else:
        network = load_segmenter(segmenter, None)
        network.to(choose_device(device))
        own = network.space
        mapping = ClassMapping.read(classes, own) if classes else ClassMapping.keep(own, out.resolve().name)
        settings = LabelSettings(threshold, least_region, snap, longest_side or 1024, val_share)
    with show_progress("Labeling") as progress:
        report = label_photos(photos, out, network, mapping, settings, on_progress=progress)
    print(report)
    if pairs := report.doubtful_pairs(8):
        write_png(out / "sheet.png", draw_sheet(pairs, mapping.space))
        print(
            f"{len(pairs)} sketches: {out / 'sheet.png'}"
            if lines
            else f"the {len(pairs)} most doubtful: {out / 'sheet.png'}"
        )
    check = check_dataset(out, "folder", mapping.space)
    print(check)
    if check.ok and report.photos:
        preset, space = "v2-small", shlex.quote(f"data.label_space={out / CLASSES_FILE}")
        if lines:
            preset, space = "v1-small-sketch", "data.sketch.from=files data.sketch.label_space=null"
        root = shlex.quote(f"data.root={out}")
        print(f"Train on it: lab2pix train {preset} data.format=folder {root} {space} --out RUN")
    raise typer.Exit(0 if report.ok and check.ok else 1)


_OF_SEGMENTERS = ("classes", "threshold", "least_region", "snap", "device")


def _check_options(context: typer.Context, lines: bool, segmenter: str | None) -> None:
    """Refuse options that would have no effect."""
    if lines == (segmenter is not None):
        raise ConfigError("choose what labels the photos: --segmenter NAME for classes, or --lines for sketches")
    for name in _OF_SEGMENTERS if lines else ("sigma",):
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} has no effect {'with' if lines else 'without'} --lines; leave it out")
