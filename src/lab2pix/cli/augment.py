"""The `augment` command, which makes training data from label maps."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from lab2pix.cli.console import show_progress
from lab2pix.cli.options import Device, FormatOption, Seed, Split

app = typer.Typer()


@app.command("augment")
def _augment(
    weights: Annotated[
        str, typer.Argument(metavar="RUN_OR_WEIGHTS", help="Run, checkpoint, weights file or hub name.")
    ],
    labels: Annotated[Path, typer.Argument(help="Dataset, or folder of label maps.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the new dataset; a second run continues the first.")],
    samples: Annotated[int, typer.Option(min=1, help="Number of images per label map.")] = 4,
    seed: Seed = 0,
    format: FormatOption = "folder",
    split: Split = None,
    label_space: Annotated[
        str | None, typer.Option(help="Label space of the label maps, which must be that of the model.")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip/--no-flip", help="Flip half of the layouts.")] = True,
    crop: Annotated[
        float, typer.Option(min=0.1, max=1, help="Crop layouts to at least this share of the sides; 1: off.")
    ] = 0.7,
    paste: Annotated[
        int, typer.Option(min=0, help="Paste up to this many foreground objects of another label map; 0: off.")
    ] = 3,
    jitter: Annotated[
        float, typer.Option(min=0, max=0.5, help="Move foreground objects by up to this share of the sides; 0: off.")
    ] = 0.05,
    segmenter: Annotated[
        str | None,
        typer.Option(
            metavar="SEGMENTER", help="Filters pixels and images: hf:NAME, torchvision:NAME, a folder or a program."
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Pixels with this many times the mean loss of their class become unknown.")
    ] = 1.25,
    region_share: Annotated[
        float, typer.Option(min=0, max=1, help="Regions with a smaller share of agreeing pixels become unknown.")
    ] = 0.5,
    least_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Images with a smaller share of agreeing pixels are dropped.")
    ] = 0.5,
    resample: Annotated[
        float, typer.Option(min=0, max=1, help="How much more often difficult label maps are drawn; 0: all alike.")
    ] = 0.5,
    photos: Annotated[Path | None, typer.Option(help="Folder of real photos, for the distance to them.")] = None,
    features: Annotated[
        str, typer.Option(help="Network of the distance: inception, efficientnet-lite0, or an exported program.")
    ] = "efficientnet-lite0",
    max_distance: Annotated[
        float, typer.Option(min=0, help="Images farther from the nearest photo are dropped; photos have about 1.")
    ] = 2.0,
    form: Annotated[
        Literal["folder", "coco", "shards"],
        typer.Option(help="Also write COCO's panoptic annotations, or tar shards, from the dataset in format folder."),
    ] = "folder",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 8,
    device: Device = None,
) -> None:
    """Make training data: images of varied layouts with their label maps; check it (exit status 1)."""
    from lab2pix.data.check import check_dataset
    from lab2pix.data.layouts import LayoutSettings
    from lab2pix.data.panoptic import write_panoptic
    from lab2pix.data.shards import write_shards
    from lab2pix.evaluation.features import load_features
    from lab2pix.evaluation.segmenters import load_segmenter
    from lab2pix.inference import Synthesizer
    from lab2pix.inference.augment import (
        CLASSES_FILE,
        SPLIT,
        Augmenter,
        augment,
        find_label_maps,
    )
    from lab2pix.inference.augment_report import AugmentSettings
    from lab2pix.inference.folder import has_known_values
    from lab2pix.inference.photo_distance import PhotoDistance
    from lab2pix.utils.distributed import init_distributed

    settings = AugmentSettings(
        samples,
        seed,
        LayoutSettings(flip, crop, paste, jitter),
        tolerance,
        region_share,
        least_agreement,
        resample,
        max_distance,
        batch_size,
    )
    with init_distributed(device) as dist:
        synthesizer = Synthesizer.load(weights, device=str(dist.device), expect_label_space=label_space)
        network = None if segmenter is None else load_segmenter(segmenter, synthesizer.label_space)
        distance = None
        if network is not None:
            network.to(dist.device)
        if photos is not None:
            compared = load_features(features)
            compared.to(dist.device)
            distance = PhotoDistance.of(compared, photos, synthesizer.size)
        augmenter = Augmenter(
            synthesizer,
            find_label_maps(labels, format, split, out),
            settings,
            segmenter=network,
            distance=distance,
            allow_bare_ids=label_space is not None or has_known_values(weights, format, synthesizer.label_space),
        )
        with show_progress("images") as on_progress:
            report = augment(augmenter, out, dist, on_progress=on_progress)
        if not dist.main:
            return
    print(report)
    if not report.kept:
        raise typer.Exit(1)
    if form == "coco":
        print(write_panoptic(out, SPLIT, augmenter.space))
    if form == "shards":
        for shard in write_shards(out, SPLIT, out / "shards", {image.name: asdict(image) for image in report.kept}):
            print(shard)
    check = check_dataset(out, "folder", augmenter.space, SPLIT)
    print(check)
    if check.ok:
        root, space = f"data.root={out}", f"data.label_space={out / CLASSES_FILE}"
        print(f"Train on it: data.format=folder {shlex.quote(root)} {shlex.quote(space)}")
    raise typer.Exit(0 if report.ok and check.ok else 1)
