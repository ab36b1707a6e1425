"""Tar shards in an object store: a server that imitates S3, which moto runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from lab2pix.config.schema import DataConfig
from lab2pix.data import build_dataset, storage
from lab2pix.data.shard_index import find_shard_pairs, index_shards
from lab2pix.data.shards import write_shards
from lab2pix.errors import DataError, OutputError
from lab2pix.labels.space import LabelSpace
from lab2pix.training import train
from tests.helpers.shard_sets import COUNTS, write_set
from tests.helpers.toy import assert_same_run, toy_config

server = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[s3]' flask flask-cors")
pytest.importorskip("s3fs", reason="the extra 'cloud' is not installed")

pytestmark = pytest.mark.xslow

Run = Callable[..., tuple[int, str, str]]
URL = "s3://bucket/set"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Address of a server without network access."""
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_set(tmp_path / "folder")


@pytest.fixture
def store(
    address: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[storage.fsspec.AbstractFileSystem]:
    """Upload shards with the indexes that were made on the disk."""
    for name, value in (("ENDPOINT_URL", address), ("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(storage, "_PAUSE", 0)
    for split in COUNTS:
        write_shards(folder, split, tmp_path / "shards", per_shard=3)
    storage.fsspec.get_filesystem_class("s3").clear_instance_cache()
    files = storage.fsspec.filesystem("s3")
    files.mkdir("bucket")
    files.put(f"{tmp_path}/shards/", "bucket/set/", recursive=True)
    yield files
    files.rm("bucket", recursive=True)


def dataset(format: str, root: object):
    config = DataConfig.model_validate({"format": format, "root": str(root), "size": (8, 8), "resize": (10, 10)})
    return build_dataset(config, "train", LabelSpace.load("scenes"), 0, paired=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_from_the_store_is_training_from_the_folder(store, folder: Path, tmp_path: Path, workers: int) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    settings = {"train__steps": 5, "checkpoint__every": 3}
    train(toy_config(data__format="folder", data__root=str(folder), **settings), one)
    config = toy_config(data__format="shards", data__root=URL, data__workers=workers, **settings)
    train(config, other)
    shutil.rmtree(other / "checkpoints/step-00000005")
    train(config, other, resume=True)
    assert_same_run(one, other, 5)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_samples_in_worker_processes_are_those_of_the_folder(store, folder: Path, start: str) -> None:
    ours, theirs = dataset("shards", URL), dataset("folder", folder)
    ours[0]  # so that a forked worker inherits an open connection
    loader = DataLoader(ours, batch_size=None, num_workers=2, multiprocessing_context=start)
    for sample, expected in zip(loader, (theirs[index] for index in range(len(theirs))), strict=True):
        assert torch.equal(sample["image"], expected["image"])
        assert torch.equal(sample["label"], expected["label"])


def test_commands_index_and_check_the_store(store, run: Run) -> None:
    for index in store.glob("bucket/set/*.index"):
        store.rm(index)
    code, _, errors = run("data", "check", URL, "--format", "shards", "--labels", "scenes")
    assert code == 2
    assert f"make it with `lab2pix data index {URL}`" in errors
    code, output, _ = run("data", "index", URL)
    assert (code, output.splitlines()[0]) == (0, "train-000000.tar: 3 samples")
    assert run("data", "index", URL)[1].splitlines()[0] == "train-000000.tar: its index is valid"
    code, output, _ = run("data", "check", URL, "--format", "shards", "--labels", "scenes")
    assert code == 0, output
    assert "10 pairs, format 'shards'" in output


def test_a_changed_shard_of_the_same_size_is_noticed(store) -> None:
    dict(index_shards(URL, {}, again=True))
    content = store.cat_file("bucket/set/train-000001.tar")
    store.pipe_file("bucket/set/train-000001.tar", content[:-1] + b"x")
    with pytest.raises(DataError, match=r"s3://bucket/set/train-000001.tar has changed since its index was made"):
        find_shard_pairs(URL, "train")


def test_unreachable_stores_are_named_in_a_sentence(store, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = find_shard_pairs(URL, "train")
    store.rm("bucket/set/train-000000.tar")
    with pytest.raises(DataError, match=r"s3://bucket/set/train-000000.tar is missing; put it back"):
        pairs[0].read_image()
    with pytest.raises(OutputError, match="cannot write s3://nowhere/a"):
        storage.write_file("s3://nowhere/a", b"")
    with pytest.raises(DataError, match=r"There are no shards \(.tar\) in s3://bucket/other"):
        find_shard_pairs("s3://bucket/other", "train")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    type(store).clear_instance_cache()
    with pytest.raises(DataError, match=r"s3://bucket/set cannot be read after 4 attempts \(.*127.0.0.1:9"):
        find_shard_pairs(URL, "train")
