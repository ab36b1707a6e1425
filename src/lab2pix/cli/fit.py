"""The `fit` command, which goes from a folder of photos to a trained painter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lab2pix.cli.console import print_table, show_progress
from lab2pix.cli.options import Browser, Device, Overrides

if TYPE_CHECKING:
    from lab2pix.fit.plan import Plan

app = typer.Typer()


@app.command("fit")
def _fit(
    data: Annotated[Path, typer.Argument(help="Folder of photos, or with label maps in `labels`, photos in `images`.")],
    overrides: Overrides = None,
    *,
    out: Annotated[Path | None, typer.Option(help="Folder of the result; default: fits/NAME of the data.")] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="Total time in minutes.")] = 60,
    plan: Annotated[bool, typer.Option("--plan", help="Write the plan, a configuration, and do not train.")] = False,
    segmenter: Annotated[
        str | None, typer.Option(help="Labels photos without label maps; see `lab2pix label`, also for the default.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="YAML file of classes for --segmenter, which may merge, rename and drop.")
    ] = None,
    browser: Browser = True,
    device: Device = None,
) -> None:
    """Choose method and settings by rules, train to the end of the time, and show the images; repeat it to go on."""
    from lab2pix.fit import Request, run_fit

    request = Request(
        data=data,
        out=out or Path("fits") / data.resolve().name,
        minutes=minutes,
        overrides=tuple(overrides or ()),
        segmenter=segmenter,
        classes=classes,
        device=device,
        browser=browser,
    )
    result = run_fit(request, plan_only=plan, bars=show_progress, show_plan=_show_plan)
    raise typer.Exit(result.exit_code)


def _show_plan(plan: Plan) -> None:
    print_table(("setting", "value", "reason"), [(item.key, str(item.value), item.reason) for item in plan.choices])
