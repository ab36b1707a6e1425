"""Tar shards: their index, reading by ranges, what is refused, and the same training as from the folder."""

from __future__ import annotations

import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fsspec.registry import _registry

from lab2pix.config.schema import DataConfig
from lab2pix.data import build_dataset, find_pairs, storage, tar_samples
from lab2pix.data.shard_index import find_shard_pairs, index_shards
from lab2pix.data.shards import write_shards
from lab2pix.errors import ConfigError, DataError, OutputError
from lab2pix.labels.space import LabelSpace
from lab2pix.training import train
from tests.helpers.shard_sets import COUNTS, encode, tar_of, write_set
from tests.helpers.toy import assert_same_run, toy_config

Run = Callable[..., tuple[int, str, str]]
SPACE = LabelSpace.load("scenes")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_set(tmp_path / "folder")


@pytest.fixture
def shards(folder: Path, tmp_path: Path) -> Path:
    out = tmp_path / "shards"
    write_shards(folder, "train", out, per_shard=3)
    write_shards(folder, "val", out)
    return out


LABEL, PHOTO = encode(np.zeros((8, 8), np.uint8)), encode(np.full((8, 8, 3), 9, np.uint8), "JPEG")


def dataset(root: Path | str, format: str, split: str = "train", *, paired: bool = True, **more: object):
    config = DataConfig.model_validate(
        {"format": format, "root": str(root), "size": (8, 8), "resize": (10, 10), **more}
    )
    return build_dataset(config, split, SPACE, 0, paired=paired)


def error_of(root: Path, split: str | None = "train", **options: bool) -> str:
    with pytest.raises(DataError) as caught:
        find_shard_pairs(str(root), split, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("more", [{}, {"instance_edges": True}, {"paired": False}])
def test_samples_are_those_of_the_folder(folder: Path, shards: Path, more: dict[str, object]) -> None:
    shard_set, folder_set = dataset(shards, "shards", **more), dataset(folder, "folder", **more)
    assert len(shard_set) == len(folder_set) == 7
    for key in (0, 6, (1, 3), (2, 3)):
        ours, theirs = shard_set[key], folder_set[key]
        for part in ("label", "image", "edges", "instances"):
            assert (ours[part] is None) == (theirs[part] is None)
            assert ours[part] is None or torch.equal(ours[part], theirs[part])


def test_without_a_split_all_shards_count(shards: Path) -> None:
    assert len(find_shard_pairs(str(shards), None)) == sum(COUNTS.values())


def test_a_sample_is_one_request_and_a_label_map_reads_only_itself(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[tuple[int, int]] = []

    def read(file: str, start: int, stop: int) -> bytes:
        requests.append((start, stop))
        return storage.read_range(file, start, stop)

    monkeypatch.setattr(tar_samples, "read_range", read)
    pairs = dataset(shards, "shards", instance_edges=True)
    pairs[4]
    assert len(requests) == 1
    requests.clear()
    pairs.read_label(4)
    assert len(requests) == 2  # label map and instance map
    size = pairs.pairs[4].shard.members["label"][2]
    assert requests[0][1] - requests[0][0] == size + tarfile.BLOCKSIZE


def test_hash_of_the_files_moves_with_the_set_and_changes_with_it(folder: Path, shards: Path, tmp_path: Path) -> None:
    before = dataset(shards, "shards").file_hash()
    shards.rename(tmp_path / "moved")
    assert dataset(tmp_path / "moved", "shards").file_hash() == before
    (folder / "images/train/a0.png").write_bytes(LABEL)
    write_shards(folder, "train", tmp_path / "other", per_shard=3)
    assert dataset(tmp_path / "other", "shards").file_hash() != before


@pytest.mark.slow
def test_training_from_shards_is_training_from_the_folder(folder: Path, shards: Path, tmp_path: Path) -> None:
    runs = {}
    for format, root, workers in (("folder", folder, 0), ("shards", shards, 0), ("shards", shards, 2)):
        run = runs[format, workers] = tmp_path / f"run-{format}-{workers}"
        config = {"data__format": format, "data__root": str(root), "data__workers": workers}
        train(toy_config(**config, train__steps=5), run)
    assert_same_run(runs["folder", 0], runs["shards", 0], 5)
    assert_same_run(runs["folder", 0], runs["shards", 2], 5)


def test_web_dataset_names_are_understood(tmp_path: Path) -> None:
    tar_of(
        tmp_path / "train/000.tar",
        {f"deep/{key}.{ext}": content for key in "ab" for ext, content in (("jpg", PHOTO), ("seg.png", LABEL))},
        form=tarfile.PAX_FORMAT,
    )
    long = {f"{'long' * 30}{end}.{part}.png": LABEL for end in "eé" for part in ("image", "label")}
    tar_of(tmp_path / "train/001.tar", long, form=tarfile.PAX_FORMAT)
    tar_of(tmp_path / "val-0.tar", {"c.png": LABEL, "c.json": b"{}", "c.jpg": PHOTO, "README": b"text"})
    assert dict(index_shards(str(tmp_path), {})) == {"train/000.tar": 2, "train/001.tar": 2, "val-0.tar": 1}
    assert dict(index_shards(str(tmp_path), {})) == dict.fromkeys(("train/000.tar", "train/001.tar", "val-0.tar"))
    pairs = find_shard_pairs(str(tmp_path), "train")
    assert [pair.name for pair in pairs][:2] == ["train/000/deep/a", "train/000/deep/b"]
    for pair in [*pairs, *find_shard_pairs(str(tmp_path), "val")]:
        assert pair.read_image().shape == (3, 8, 8)
        assert torch.equal(pair.read_label(SPACE), torch.zeros(8, 8, dtype=torch.int64))


def test_ambiguous_files_are_named_by_extension(tmp_path: Path, run: Run) -> None:
    tar_of(tmp_path / "train.tar", {"a.jpg": PHOTO, "a.png": LABEL, "a.depth.png": PHOTO})
    code, _, errors = run("data", "index", tmp_path)
    assert code == 2
    assert "several files that may be its label: png, depth.png; name one with --label EXTENSION" in errors
    assert run("data", "index", tmp_path, "--label", "png")[:2] == (0, "train.tar: 1 samples\n")
    assert find_shard_pairs(str(tmp_path), "train")[0].label.name == "a.png"


def test_shards_at_fault_are_refused_in_a_sentence(shards: Path, tmp_path: Path) -> None:
    assert "There are no shards (.tar) in" in error_of(tmp_path / "nowhere")
    assert "no shards test/*.tar or test-*.tar in" in error_of(shards, "test")
    (shards / "val-000000.tar.index").write_text("{")
    assert "val-000000.tar has a damaged index; repeat `lab2pix data index" in error_of(shards, "val")
    shard, index = shards / "train-000001.tar", shards / "train-000001.tar.index"
    os.utime(shard, (1, 1))
    assert "train-000001.tar has changed since its index was made" in error_of(shards)
    shard.write_bytes(shard.read_bytes()[:-1024])
    assert f"has {shard.stat().st_size} bytes, but had {shard.stat().st_size + 1024} when its" in error_of(shards)
    index.unlink()
    assert f"train-000001.tar in {shards} has no index; make it with `lab2pix data index {shards}`" in error_of(shards)
    for size in (2000, 1536, 900, 100, 0):  # in a header, between files, in a file, in the first header
        os.truncate(shard, size)
        with pytest.raises(DataError, match=r"train-000001.tar is not a tar file, or a truncated one"):
            list(index_shards(str(shards), {}))


def test_samples_without_label_map_or_photo_are_refused(tmp_path: Path) -> None:
    tar_of(tmp_path / "train-0.tar", {"a.jpg": PHOTO, "a.txt": b"a cat"})
    with pytest.raises(
        DataError, match=r"Sample a of .*train-0.tar has no label map, but jpg, txt; name the extension"
    ):
        list(index_shards(str(tmp_path), {}))
    tar_of(tmp_path / "train-0.tar", {"a.label.png": LABEL})
    list(index_shards(str(tmp_path), {}))
    assert "Sample a of" in error_of(tmp_path)
    assert len(find_shard_pairs(str(tmp_path), "train", need_images=False)) == 1


def test_a_shard_that_is_replaced_meanwhile_is_noticed(shards: Path) -> None:
    pairs = find_shard_pairs(str(shards), "train")
    shard = shards / "train-000000.tar"
    shard.write_bytes(bytes(tarfile.BLOCKSIZE) + shard.read_bytes()[: -tarfile.BLOCKSIZE])
    with pytest.raises(DataError, match=r"does not hold 00000000.image.png where its index says"):
        pairs[0].read_image()
    shard.unlink()
    with pytest.raises(DataError, match=r"train-000000.tar is missing"):
        pairs[1].read_image()


def test_failed_reads_are_repeated_but_not_forever(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, calls = find_shard_pairs(str(shards), "train"), []
    monkeypatch.setattr(storage, "_PAUSE", 0)

    def flaky(failures: int) -> None:
        calls.clear()
        files = storage.fsspec.filesystem("file")

        def read(path: str, start: int, end: int) -> bytes:
            calls.append(path)
            if len(calls) <= failures:
                raise TimeoutError("no answer")
            return Path(path).read_bytes()[start:end]

        monkeypatch.setattr(files, "cat_file", read)

    flaky(3)
    assert pairs[0].read_image().shape[0] == 3
    assert len(calls) == 4
    flaky(9)
    with pytest.raises(DataError, match=r"train-000000.tar cannot be read after 4 attempts \(no answer\)"):
        pairs[0].read_image()
    assert len(calls) == 4


def test_libraries_that_lack_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(_registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(
        ConfigError, match="s3://bucket/set needs a library for s3:// that is not installed; pip install"
    ):
        find_shard_pairs("s3://bucket/set", "train")
    with pytest.raises(DataError, match="nothing://set cannot be opened"):
        find_shard_pairs("nothing://set", "train")


def test_commands_write_check_and_preview_shards(folder: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    code, output, errors = run("data", "shards", folder, out, "--per-shard", 4)
    assert code == 0, errors
    assert output.split() == [str(out / "train-000000.tar"), str(out / "train-000001.tar")]
    code, _, errors = run("data", "shards", folder, out)
    assert code == OutputError.exit_code
    assert "has shards of split 'train' already" in errors
    words = ("--format", "shards", "--labels", "scenes")
    code, output, _ = run("data", "check", out, *words)
    assert code == 0, output
    assert "7 pairs, format 'shards'" in output
    assert "label maps: ids (PNG, gray, 8 bits)" in output
    code, _, errors = run("data", "preview", out, *words, "--out", tmp_path / "sheet.png")
    assert code == 0, errors
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_a_damaged_photo_in_a_shard_is_named(tmp_path: Path, run: Run) -> None:
    tar_of(tmp_path / "train.tar", {"a.jpg": PHOTO[:200], "a.png": LABEL})
    list(index_shards(str(tmp_path), {}))
    code, output, _ = run("data", "check", tmp_path, "--format", "shards", "--labels", "scenes")
    assert code == 1
    assert f"{tmp_path}/train.tar/a.jpg cannot be read" in output


def test_other_commands_refuse_shards(shards: Path) -> None:
    with pytest.raises(DataError, match="unpack the tar files in"):
        find_pairs("shards", shards, "train")
