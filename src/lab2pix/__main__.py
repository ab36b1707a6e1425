"""`python -m lab2pix`, which `torchrun -m lab2pix` needs."""

from __future__ import annotations

from lab2pix.cli import main

if __name__ == "__main__":
    main()
