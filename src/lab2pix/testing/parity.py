"""Parity checks: recorded outputs in vector files of other programs against this package's methods."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lab2pix.errors import DataError
from lab2pix.interop.vectors import Row, Vectors, failure, guarded, read_vectors
from lab2pix.methods import Method, get_method, method_names


def _reader(vectors: Vectors) -> type[Method] | None:
    return next((method for method in map(get_method, method_names()) if method.reads_vectors(vectors)), None)


def check_file(path: Path, *, fast: bool = False) -> list[Row]:
    """Compare every recorded output of one vector file with this package's.

    Args:
        path: `NAME.safetensors`, with `NAME.json` next to it.
        fast: whether to compare accelerated or fused networks, if the method supports it.

    Returns:
        One row per recorded tensor, loss value and gradient norm. An unreadable file and weights that do not fit are
        failed rows, too.
    """

    def check() -> Iterable[Row]:
        vectors = read_vectors(path)
        method = _reader(vectors)
        if method is None:
            known = ", ".join(method_names())
            return [failure(path.name, f"cannot check: these are not the networks of any method ({known})")]
        if not any(name.startswith("out.") for name in vectors.tensors):
            return [failure(path.name, "cannot check: there is no recorded output (out.*)")]
        return method.check_vectors(vectors, fast=fast)

    return guarded(path.name, check)


def check_files(paths: Iterable[Path], *, fast: bool = False) -> dict[Path, list[Row]]:
    """Check vector files, and all vector files in folders.

    Raises:
        DataError: a path does not exist, or a folder has no vector file.
    """
    files: list[Path] = []
    for path in paths:
        found = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        if not found or not all(file.is_file() for file in found):
            raise DataError(f"there is no vector file at {path}; give NAME.safetensors or a folder that holds some")
        files.extend(found)
    return {file: check_file(file, fast=fast) for file in files}


def run_parity(paths: Iterable[Path], *, fast: bool = False) -> bool:
    """Check vector files and print a table for each.

    Returns:
        Whether all rows passed.
    """
    everything = check_files(paths, fast=fast)
    for file, rows in everything.items():
        print(file)
        for row in rows:
            difference = row.note or f"{row.max_abs:.2e} of {row.tolerance:.0e}"
            print(f"  {'ok  ' if row.ok else 'FAIL'}  {row.output:<28} {difference}")
    failed = sum(not row.ok for rows in everything.values() for row in rows)
    total = sum(len(rows) for rows in everything.values())
    print(f"{total - failed} of {total} right" + (f", {failed} not" if failed else ""))
    return not failed
