"""Tar shards of pairs, in the naming of WebDataset: the files of a sample are adjacent and share a key."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab2pix.data.formats import find_pairs
from lab2pix.data.image_errors import cure_of
from lab2pix.data.pairs import Pair
from lab2pix.data.shard_index import write_index
from lab2pix.data.storage import list_files_below
from lab2pix.errors import DataError
from lab2pix.utils.files import atomic_write, output_errors


def write_shards(
    root: Path, split: str, out: Path, records: Mapping[str, Mapping[str, Any]] | None = None, *, per_shard: int = 1000
) -> list[Path]:
    """Write the pairs of a dataset in format `folder` as tar files, `OUT/SPLIT-000000.tar`, ..., with their indexes.

    A sample is `KEY.image.png`, `KEY.label.png`, with an instance map `KEY.instance.png`, and `KEY.json`; the suffixes
    are those of the dataset's files. The tar files depend on the contents only, not on times and users.

    Args:
        root: the dataset.
        split: the split.
        out: folder of the shards; existing ones are replaced.
        records: values for `KEY.json`, by name of the pair; None: none. The name is added.
        per_shard: pairs per tar file.

    Returns:
        The tar files.

    Raises:
        DataError: an unreadable file.
        OutputError: a shard cannot be written.
    """
    pairs, shards = find_pairs("folder", root, split), []
    for number, start in enumerate(range(0, len(pairs), per_shard)):
        shard = out / f"{split}-{number:06d}.tar"
        with (
            output_errors(shard, "repeat the command"),
            atomic_write(shard, sync=False) as [unfinished],
            tarfile.open(unfinished, "w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for place in range(start, min(start + per_shard, len(pairs))):
                pair = pairs[place]
                _add(tar, f"{place:08d}", pair, {"name": pair.name, **(records[pair.name] if records else {})})
        shards.append(shard)
    listed = list_files_below(str(out))
    for shard in shards:
        write_index(str(out), shard.name, listed[shard.name], {})
    return shards


def _add(tar: tarfile.TarFile, key: str, pair: Pair, record: Mapping[str, Any]) -> None:
    """Append the files of a pair, and its record."""
    for part, file in (("image", pair.image), ("label", pair.label), ("instance", pair.instance)):
        if file is not None:
            try:
                content = file.read_bytes()
            except OSError as error:
                raise DataError(
                    f"{file} cannot be read ({error.strerror}); {cure_of(error, 'repeat the command')}"
                ) from error
            _append(tar, f"{key}.{part}{file.suffix}", content)
    _append(tar, f"{key}.json", json.dumps(record).encode())


def _append(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)  # its time is 0, and its user is nobody
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
