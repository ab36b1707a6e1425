"""Verbs that judge pictures: evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lab2pix.cli.options import Device, Seed, Split
from lab2pix.terminal import read_size, show_progress

__all__ = ["app"]

app = typer.Typer()


@app.command("evaluate")
def _evaluate(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN_OR_WEIGHTS",
            help="What to judge on its own held-out data; or else --generated.",
            show_default=False,
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="Report to write (.json); its page (.html) lies beside it.")],
    generated: Annotated[Path | None, typer.Option(help="A folder of pictures.", show_default=False)] = None,
    real: Annotated[
        Path | None, typer.Option(help="Their photos, or a file of --save-stats.", show_default=False)
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Their label maps.", show_default=False)] = None,
    label_space: Annotated[str | None, typer.Option(help="What the label maps hold.", show_default=False)] = None,
    segmenter: Annotated[
        str | None, typer.Option(help="Folder, exported program or hf:NAME for PPA, PCA, C-IoU.", show_default=False)
    ] = None,
    features: Annotated[
        list[str], typer.Option(help="inception (FID, KID), efficientnet-lite0 or an exported program; repeatable.")
    ] = ["efficientnet-lite0"],  # noqa: B006 - typer's way to a repeatable option with a default
    inception_weights: Annotated[Path | None, typer.Option(help="Inception's weights.", show_default=False)] = None,
    lpips: Annotated[str | None, typer.Option(help="alex or vgg, for LPIPS.", show_default=False)] = None,
    lpips_weights: Annotated[Path | None, typer.Option(help="That network's weights.", show_default=False)] = None,
    samples: Annotated[
        int, typer.Option("--samples", "--seeds", min=1, help="Pictures per label map (NAME_0, NAME_1, ...).")
    ] = 1,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Bring all pictures to this size.", show_default=False)
    ] = None,
    unpaired: Annotated[bool, typer.Option("--unpaired", help="Photos' names mean nothing; no PSNR or SSIM.")] = False,
    layout: Annotated[str, typer.Option(help="How photos and label maps lie.")] = "folder",
    split: Split = None,
    count: Annotated[int | None, typer.Option(min=2, help="Of a run: how many label maps.", show_default=False)] = None,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Leave out what lacks a partner.")] = False,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out what cannot be read.")] = False,
    save_stats: Annotated[
        Path | None, typer.Option(help="Keep the photos' statistics (.safetensors) for --real.", show_default=False)
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at once; changes speed and memory only.")] = 32,
    seed: Seed = 0,
    name: Annotated[str | None, typer.Option(help="The method's name in the report.", show_default=False)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a report that is there.")] = False,
    device: Device = None,
) -> None:
    """Score pictures made by anything, or what a run draws; the report says how."""
    from lab2pix.distributed import DistributedContext
    from lab2pix.errors import ConfigError, did_you_mean
    from lab2pix.synthesis.judging import evaluate

    if lpips not in (None, "alex", "vgg"):
        raise ConfigError(f"--lpips is '{lpips}'{did_you_mean(lpips, ('alex', 'vgg'))}")
    with show_progress("label maps") as on_progress:
        report = evaluate(
            run,
            generated=generated,
            real=real,
            labels=labels,
            label_space=label_space,
            segmenter=segmenter,
            features=features,
            lpips=lpips,  # type: ignore[arg-type]
            inception_weights=inception_weights,
            lpips_weights=lpips_weights,
            samples=samples,
            size=None if size is None else read_size(size),
            unpaired=unpaired,
            layout=layout,
            split=split,
            count=count,
            allow_missing=allow_missing,
            skip_broken=skip_broken,
            batch_size=batch_size,
            seed=seed,
            save_stats=save_stats,
            name=name,
            device=device,
            out=out,
            overwrite=overwrite,
            on_progress=on_progress,
        )
    if DistributedContext.is_first():
        print(f"{report}\n{out}")
