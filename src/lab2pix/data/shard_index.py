"""Index of tar shards: the place of each sample, so that any sample is read by one byte range.

The index of `NAME.tar` is `NAME.tar.index`, a JSON file: size and version of the shard, and for each sample, in the
shard's order, its key and the extension, offset and size of its files.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from lab2pix.data.files import ARRAY_SUFFIX, IMAGE_SUFFIXES
from lab2pix.data.pairs import PairList, Row
from lab2pix.data.storage import StoredFile, list_files_below, read_files, read_stream, write_file
from lab2pix.errors import DataError
from lab2pix.utils.text import first_few

INDEX = ".index"
_TAR = ".tar"
_AT_ONCE = 32  # indexes in memory
_KEY = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")  # as WebDataset: the extension starts at the first dot
_PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".webp"})

Parts = dict[str, tuple[str, int, int]]
"""Extension, offset and size in bytes of a sample's files, by part: label, image, instance."""


def index_shards(root: str, extensions: Mapping[str, str], *, again: bool = False) -> Iterator[tuple[str, int | None]]:
    """Write the index of each shard in a folder and its sub-folders that has no valid one.

    Args:
        root: path or URL of the folder.
        extensions: extension of the files of a part (`image`, `label`, `instance`), such as `seg.png`; by default that
            part's name and any suffix, or the one JPEG or WebP file of a sample as the photo, and the one remaining PNG
            file as the label map.
        again: whether to write each index, valid or not.

    Yields:
        Name and number of samples of each shard; None if it has a valid index.

    Raises:
        DataError: there are no shards, or one is unreadable, truncated, or has a sample without a label map.
        OutputError: an index cannot be written.
    """
    root = root.rstrip("/") or root
    listed = list_files_below(root)
    for shard in _shards(listed, root):
        if not again and f"{shard}{INDEX}" in listed and _fault(next(_load(root, [shard])), listed[shard]) is None:
            yield shard, None
            continue
        yield shard, write_index(root, shard, listed[shard], extensions)


def write_index(root: str, shard: str, stored: StoredFile, extensions: Mapping[str, str]) -> int:
    """Write the index of one shard and return its number of samples; see `index_shards`."""
    where = f"{root}/{shard}"
    samples = read_stream(where, partial(_read_tar, name=where, extensions=extensions))
    about = {"size": stored.size, "version": stored.version, "samples": list(samples.items())}
    write_file(f"{where}{INDEX}", json.dumps(about, separators=(",", ":")).encode())
    return len(samples)


def find_shard_pairs(root: str, split: str | None, *, need_images: bool = True, need_labels: bool = True) -> PairList:
    """Find the samples of a split in indexed shards, in the order of the shards' names and of each shard.

    Args:
        root: path or URL of the folder.
        split: shards `SPLIT/*.tar`, or else `SPLIT-*.tar`; None: all.
        need_images: False leaves photos out.
        need_labels: False leaves label maps out.

    Raises:
        ConfigError: the library for the URL is not installed.
        DataError: there are no shards, one has no index or has changed since, or a sample lacks its photo.
    """
    root = root.rstrip("/") or root
    listed = list_files_below(root)
    shards = _of_split(_shards(listed, root), split, root)
    if lacking := [shard for shard in shards if f"{shard}{INDEX}" not in listed]:
        raise DataError(f"{first_few(lacking, 3)} in {root} has no index; make it with `lab2pix data index {root}`")

    def rows() -> Iterator[Row]:
        for shard, index in zip(shards, _load(root, shards), strict=True):
            if (fault := _fault(index, listed[shard])) is not None:
                raise DataError(f"{root}/{shard} {fault}; repeat `lab2pix data index {root}`")
            for key, parts in index["samples"]:
                if need_images and "image" not in parts:
                    raise DataError(
                        f"Sample {key} of {root}/{shard} has no photo; name the extension of photos with `lab2pix data "
                        f"index {root} --image EXTENSION`, or remove the sample"
                    )
                yield _row(shard, key, parts, images=need_images, labels=need_labels)

    pairs = PairList(rows(), root=root)
    if not pairs:
        raise DataError(f"The shards of {root} are empty; write them again")
    return pairs


def _row(shard: str, key: str, parts: Mapping[str, Any], *, images: bool, labels: bool) -> Row:
    wanted = {"label": parts["label" if labels else "image"]}
    wanted |= {"image": parts["image"]} if images else {}
    wanted |= {"instance": parts["instance"]} if labels and "instance" in parts else {}
    files = {part: f"{shard}/{key}.{extension}" for part, (extension, _, _) in wanted.items()}
    places = " ".join(f"{part}:{offset}:{size}" for part, (_, offset, size) in wanted.items())
    name = f"{shard.removesuffix(_TAR)}/{key}"
    return Row(name, files["label"], files.get("image", ""), files.get("instance", ""), places=places)


def _shards(listed: Mapping[str, StoredFile], root: str) -> list[str]:
    shards = [name for name in listed if name.endswith(_TAR)]
    if not shards:
        raise DataError(f"There are no shards (.tar) in {root}; give the folder of the shards (data.root)")
    return shards


def _of_split(shards: list[str], split: str | None, root: str) -> list[str]:
    if split is None:
        return shards
    found = [name for name in shards if name.startswith(f"{split}/")]
    found = found or [name for name in shards if re.fullmatch(rf"{re.escape(split)}(-[^/]*)?\.tar", name)]
    if not found:
        raise DataError(
            f"There are no shards {split}/*.tar or {split}-*.tar in {root}, but {first_few(shards, 3)}; check "
            "data.train_split and data.val_split (null is none)"
        )
    return found


def _load(root: str, shards: list[str]) -> Iterator[dict[str, Any]]:
    """Read the indexes of shards, some at once; a damaged one is empty."""
    for start in range(0, len(shards), _AT_ONCE):
        for content in read_files(root, [f"{shard}{INDEX}" for shard in shards[start : start + _AT_ONCE]]):
            try:
                index = json.loads(content)
            except ValueError:
                index = {}
            yield index if isinstance(index, dict) and {"size", "version", "samples"} <= index.keys() else {}


def _fault(index: Mapping[str, Any], shard: StoredFile) -> str | None:
    """Return why an index is not valid for a shard, or None.

    Versions are compared if they are of the same kind: a set that was indexed on a disk and then copied to an object
    store keeps its index.
    """
    if not index:
        return "has a damaged index"
    if index["size"] != shard.size:
        return f"has {shard.size} bytes, but had {index['size']} when its index was made"
    kinds = {version.partition("=")[0] for version in (index["version"], shard.version)}
    if len(kinds) == 1 and index["version"] != shard.version:
        return "has changed since its index was made"
    return None


def _read_tar(file: Any, name: str, extensions: Mapping[str, str]) -> dict[str, Parts]:
    """Read the samples of a tar file, by key."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                matched = _KEY.fullmatch(member.name)
                if member.isfile() and matched:
                    found.setdefault(matched[1], {})[matched[2]] = (member.offset_data, member.size)
            file.seek(tar.offset)  # tarfile takes a cut header for the end
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("its end is missing")
    except tarfile.TarError as error:
        raise DataError(f"{name} is not a tar file, or a truncated one ({error}); copy or write it again") from error
    return {key: _assign(key, files, name, extensions) for key, files in found.items()}


def _assign(key: str, files: Mapping[str, tuple[int, int]], shard: str, extensions: Mapping[str, str]) -> Parts:
    """Choose the files of the parts of a sample."""
    images = [ext for ext in files if _suffix(ext) in IMAGE_SUFFIXES or _suffix(ext) == ARRAY_SUFFIX]
    parts: Parts = {}
    for part, otherwise in (("image", _PHOTO_SUFFIXES), ("instance", frozenset[str]()), ("label", frozenset({".png"}))):
        free = [ext for ext in images if ext not in {chosen for chosen, _, _ in parts.values()}]
        if part in extensions:
            candidates = [ext for ext in files if ext == extensions[part]]
        else:
            named = [ext for ext in free if ext.split(".")[0] == part]
            candidates = named or [ext for ext in free if _suffix(ext) in otherwise]
        if len(candidates) > 1:
            raise DataError(
                f"Sample {key} of {shard} has several files that may be its {part}: {first_few(candidates, 4)}; name "
                f"one with --{part} EXTENSION"
            )
        if candidates:
            parts[part] = (candidates[0], *files[candidates[0]])
    if "label" not in parts:
        raise DataError(
            f"Sample {key} of {shard} has no label map, but {first_few(list(files), 4)}; name the extension of label "
            "maps with --label EXTENSION, or remove the sample"
        )
    return parts


def _suffix(extension: str) -> str:
    return PurePosixPath(f"x.{extension}").suffix.lower()
