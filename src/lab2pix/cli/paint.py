"""The `paint` command, which serves the painter."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from lab2pix.cli.options import AllowHost, Browser, Device, Host, Port
from lab2pix.utils.signals import exit_immediately, exit_on_signal
from lab2pix.web import require_web_extra

app = typer.Typer()


@app.command("paint")
def _paint(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="Run, checkpoint, weights file or Hugging Face name; default: the bundled model."
        ),
    ] = None,
    *,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    allow_host: AllowHost = None,
    browser: Browser = True,
    follow: Annotated[bool, typer.Option("--follow", help="Take each new checkpoint of a run in training.")] = False,
    device: Device = None,
) -> None:
    """Serve a page to paint label maps and generate images from them, until Ctrl-C."""
    with exit_on_signal():
        require_web_extra()
        from lab2pix.web.painter.app import find_model, serve_painter

        serve_painter(
            find_model(model),
            host=host,
            port=port,
            allow_hosts=allow_host or (),
            open_browser=browser,
            device=device,
            follow=follow,
            echo=partial(print, flush=True),
        )
        exit_immediately()
