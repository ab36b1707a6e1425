"""The `paint` command, which serves the painter."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lab2pix.cli.options import AllowHost, Browser, Device, Host, Port
from lab2pix.errors import ConfigError
from lab2pix.utils.signals import exit_immediately, exit_on_signal
from lab2pix.web import require_web_extra

app = typer.Typer()


@app.command("paint")
def _paint(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Run, checkpoint, weights file or name; default: landscapes where installed, else scenes.",
        ),
    ] = None,
    *,
    edit: Annotated[
        Path | None,
        typer.Option(metavar="SET", help="Correct the label maps of this dataset (format folder) over its photos."),
    ] = None,
    label_space: Annotated[
        str | None, typer.Option(help="Classes of SET, by name or as a YAML file; default: its classes.yaml.")
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    allow_host: AllowHost = None,
    browser: Browser = True,
    follow: Annotated[bool, typer.Option("--follow", help="Take each new checkpoint of a run in training.")] = False,
    device: Device = None,
) -> None:
    """Serve a page to paint label maps and generate images from them, or to correct those of a dataset."""
    with exit_on_signal():
        require_web_extra()
        from lab2pix.web.painter.app import find_model, serve_painter
        from lab2pix.web.painter.editing import serve_editor

        serve: Callable[..., None]
        if edit is None:
            if label_space is not None:
                raise ConfigError("--label-space names the classes of --edit SET; a model has its own, so leave it out")
            serve = partial(serve_painter, find_model(model), device=device, follow=follow)
        else:
            if model is not None or device is not None or follow:
                raise ConfigError("--edit needs no model, no device and no --follow; leave them out")
            serve = partial(serve_editor, edit, label_space)
        serve(
            host=host,
            port=port,
            allow_hosts=allow_host or (),
            open_browser=browser,
            echo=partial(print, flush=True),
        )
        exit_immediately()
