"""The `label` command, which makes label maps from photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lab2pix.cli.console import show_progress
from lab2pix.cli.options import Device

app = typer.Typer()


@app.command("label")
def _label(
    photos: Annotated[Path, typer.Argument(help="Folder of photos.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the dataset; a second run continues the first.")],
    segmenter: Annotated[
        str,
        typer.Option(
            metavar="SEGMENTER",
            help="hf:NAME, torchvision:NAME, a folder of `lab2pix segmenter train`, or an exported program.",
        ),
    ],
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
        int, typer.Option(min=32, metavar="PIXELS", help="Segment photos at most this large.")
    ] = 1024,
    val_share: Annotated[float, typer.Option(min=0, max=0.9, help="Share of the photos in split val.")] = 0.1,
    device: Device = None,
) -> None:
    """Label photos by semantic segmentation: write a dataset and a sheet to look at, and check it (exit status 1)."""
    from lab2pix.data.check import check_dataset
    from lab2pix.data.contact_sheet import draw_sheet
    from lab2pix.evaluation.segmenters import load_segmenter
    from lab2pix.inference.label_classes import ClassMapping
    from lab2pix.inference.label_photos import CLASSES_FILE, LabelSettings, label_photos
    from lab2pix.utils.distributed import choose_device
    from lab2pix.utils.files import write_png

    network = load_segmenter(segmenter, None)
    network.to(choose_device(device))
    mapping = (
        ClassMapping.keep(network.space, out.resolve().name)
        if classes is None
        else ClassMapping.read(classes, network.space)
    )
    settings = LabelSettings(threshold, least_region, snap, longest_side, val_share)
    with show_progress("Labeling") as progress:
        report = label_photos(photos, out, network, mapping, settings, on_progress=progress)
    print(report)
    if pairs := report.doubtful_pairs(8):
        write_png(out / "sheet.png", draw_sheet(pairs, mapping.space))
        print(f"the {len(pairs)} most doubtful: {out / 'sheet.png'}")
    check = check_dataset(out, "folder", mapping.space)
    print(check)
    if check.ok and report.photos:
        print(
            f"Train on it: lab2pix train v2-small data.format=folder data.root={out} "
            f"data.label_space={out / CLASSES_FILE} --out RUN"
        )
    raise typer.Exit(0 if report.ok and check.ok else 1)
