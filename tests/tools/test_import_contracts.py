"""Lists of modules in the import contracts of `pyproject.toml`."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_network_is_kept_apart_from_its_faster_version() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = {contract["name"]: contract for contract in settings["tool"]["importlinter"]["contracts"]}
    networks = {f"lab2pix.nn.{file.stem}" for file in (ROOT / "src/lab2pix/nn").glob("[a-z]*.py")}
    assert set(contracts["Networks read without their faster versions"]["source_modules"]) == networks
