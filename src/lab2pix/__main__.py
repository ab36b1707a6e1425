"""Entry point of the command line: `lab2pix`, `python -m lab2pix` and `torchrun -m lab2pix`."""

from __future__ import annotations

from typing import NoReturn

from lab2pix.utils.signals import exit_on_signal
from lab2pix.utils.threads import configure_openmp


def main() -> NoReturn:
    """Load the command line and run it."""
    configure_openmp()
    with exit_on_signal():
        from lab2pix.cli import main as run
    run()


if __name__ == "__main__":
    main()
