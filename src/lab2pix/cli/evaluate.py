"""Verbs that score and compare: evaluate, compare, parity."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lab2pix.cli.console import read_size, show_progress
from lab2pix.cli.options import Device, Seed, Split

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
    from lab2pix.errors import ConfigError, did_you_mean
    from lab2pix.inference.evaluate import evaluate
    from lab2pix.utils.distributed import DistributedContext

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


@app.command("compare")
def _compare(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT...", help="Files of `lab2pix evaluate`.")],
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder for compare.md, compare.html, compare.png.", show_default=False)
    ] = None,
    allow_different: Annotated[bool, typer.Option("--allow-different", help="Go on where protocols differ.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a comparison that is there.")] = False,
) -> None:
    """Put reports side by side; those of one name are one method with several seeds."""
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
    fast: Annotated[bool, typer.Option("--fast", help="Let prepared generators answer, where there are any.")] = False,
) -> None:
    """Compare this package's networks and losses with recorded ones; exit 1 on any difference."""
    from lab2pix.testing.parity import run_parity

    raise typer.Exit(0 if run_parity(paths, fast=fast) else 1)
