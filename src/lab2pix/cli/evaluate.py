"""Evaluation commands: evaluate, compare, parity."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lab2pix.cli.console import read_size, show_progress
from lab2pix.cli.options import Device, Seed, Split

app = typer.Typer()


@app.command("evaluate")
def _evaluate(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN_OR_WEIGHTS", help="Run or weights to evaluate on its held-out data; or use --generated."
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="Output report (.json); its page (.html) is written to the same folder.")],
    generated: Annotated[Path | None, typer.Option(help="Folder of generated images.")] = None,
    real: Annotated[Path | None, typer.Option(help="Real images, or a file of --save-stats.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Label maps.")] = None,
    label_space: Annotated[str | None, typer.Option(help="Label space of --labels.")] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Published protocol: cityscapes, cityscapes-fcn, ade20k, coco-stuff or facades; --segmenter names the "
            "weights of its segmenter."
        ),
    ] = None,
    segmenter: Annotated[
        str | None, typer.Option(help="Segmenter of PPA, PCA, C-IoU: folder, exported program or hf:NAME.")
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            help="inception (FID, KID), efficientnet-lite0, dinov2, dinov2:FILE, segmenter:FOLDER or an exported "
            "program; repeatable. Default: efficientnet-lite0, or those of --protocol."
        ),
    ] = None,
    inception_weights: Annotated[Path | None, typer.Option(help="Weights of Inception.")] = None,
    precision_recall: Annotated[
        bool, typer.Option("--precision-recall", help="Also score precision and recall in the same features.")
    ] = False,
    lpips: Annotated[str | None, typer.Option(help="Network of LPIPS: alex or vgg.")] = None,
    lpips_weights: Annotated[Path | None, typer.Option(help="Weights of --lpips.")] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Images per label map, NAME_0, NAME_1, ...; else as their names tell, or 1 of a run."),
    ] = None,
    size: Annotated[str | None, typer.Option(metavar="HxW", help="Resize all images to this size.")] = None,
    unpaired: Annotated[
        bool, typer.Option("--unpaired", help="Names of real images are unrelated; no PSNR or SSIM.")
    ] = False,
    format: Annotated[str, typer.Option(help="Folder format of photos and label maps.")] = "folder",
    split: Split = None,
    count: Annotated[int | None, typer.Option(min=2, help="Runs only: number of label maps.")] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Skip names that are not in all folders.")
    ] = False,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Skip files that cannot be read.")] = False,
    alpha: Annotated[
        Literal["drop", "white", "black"],
        typer.Option(help="Background of transparent images and photos; drop shows their hidden colors."),
    ] = "drop",
    save_stats: Annotated[
        Path | None, typer.Option(help="Output file (.safetensors) of the statistics of the real images, for --real.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch; changes speed and memory only.")] = 32,
    seed: Seed = 0,
    style_from: Annotated[
        str,
        typer.Option(
            metavar="noise|photos",
            help="Runs with an image encoder only: take the style from noise, or encode each label map's own photo.",
        ),
    ] = "noise",
    name: Annotated[str | None, typer.Option(help="Name of the method in the report.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing report.")] = False,
    device: Device = None,
) -> None:
    """Score generated images, or the images of a run, and write a report."""
    from lab2pix.errors import ConfigError, did_you_mean
    from lab2pix.evaluation.evaluator import evaluate_folders
    from lab2pix.evaluation.protocol import Protocol
    from lab2pix.evaluation.report import check_output_path, picture_folder
    from lab2pix.inference.evaluate import evaluate_run
    from lab2pix.utils.distributed import DistributedContext

    if lpips not in (None, "alex", "vgg"):
        raise ConfigError(f"--lpips is '{lpips}'{did_you_mean(lpips, ('alex', 'vgg'))}")
    if (run is None) == (generated is None):
        raise ConfigError(
            "give either a run or weights, or a folder of images with --generated, and their photos with --real"
        )
    if style_from not in ("noise", "photos"):
        raise ConfigError(f"--style-from is '{style_from}'{did_you_mean(style_from, ('noise', 'photos'))}")
    of_folders = {
        **{"real": real, "labels": labels, "label-space": label_space, "save-stats": save_stats},
        **{"format": format != "folder" or None, "unpaired": unpaired or None},
    }
    refused = [option for option, value in of_folders.items() if value is not None]
    if run is not None and refused:
        raise ConfigError(f"--{refused[0]} belongs to --generated, because a run has its own data; omit it")
    if generated is not None and style_from != "noise":
        raise ConfigError("--style-from belongs to a run; leave it out: the images of --generated have their style")
    if generated is not None and count is not None:
        raise ConfigError("--count belongs to a run; omit it, as all images of --generated are evaluated")
    check_output_path(out, overwrite=overwrite)
    settings = {
        **({"features": features} if features else {}),
        **{"lpips": lpips, "inception_weights": inception_weights, "lpips_weights": lpips_weights},
        **{"precision_recall": precision_recall},
        **{"size": None if size is None else read_size(size), "batch_size": batch_size, "seed": seed},
        **{"style_from": style_from, "allow_missing": allow_missing, "skip_broken": skip_broken, "alpha": alpha},
    }
    chosen = Protocol(segmenter=segmenter, **settings)  # type: ignore[arg-type]
    if protocol is not None:
        chosen = Protocol.published(protocol, segmenter, **settings)
    with show_progress("label maps") as on_progress:
        shared = {"split": split, "name": name, "device": device, "on_progress": on_progress}
        if run is not None:
            pictures = picture_folder(out, overwrite=overwrite)
            report = evaluate_run(run, chosen, samples=samples or 1, count=count, pictures=pictures, **shared)  # type: ignore[arg-type]
        else:
            assert generated is not None
            report = evaluate_folders(
                generated, real, chosen, samples=samples, labels=labels, label_space=label_space, unpaired=unpaired,
                format=format, save_stats=save_stats, **shared,  # type: ignore[arg-type]
            )  # fmt: skip
    if DistributedContext.is_first():
        report.save(out, overwrite=overwrite)
        print(f"{report}\n{out}")


@app.command("compare")
def _compare(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT...", help="Reports of `lab2pix evaluate`.")],
    *,
    out: Annotated[Path | None, typer.Option(help="Folder for compare.md, compare.html, compare.png.")] = None,
    allow_different: Annotated[
        bool, typer.Option("--allow-different", help="Compare even if protocols differ.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing comparison.")] = False,
) -> None:
    """Compare reports; reports of the same name are seeds of one method."""
    from lab2pix.evaluation.compare import compare

    comparison = compare(reports, allow_different=allow_different)
    print(comparison.markdown())
    if out is not None:
        comparison.write(out, overwrite=overwrite)
        print(f"\n{out / 'compare.html'}")


@app.command("parity")
def _parity(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE_OR_FOLDER...", help="Golden vectors to check against.")],
    *,
    fast: Annotated[
        bool, typer.Option("--fast", help="Check the fused and accelerated networks, if there are any.")
    ] = False,
) -> None:
    """Compare networks and losses with golden vectors; exit status 1 on any difference."""
    from lab2pix.testing.parity import run_parity

    raise typer.Exit(0 if run_parity(paths, fast=fast) else 1)
