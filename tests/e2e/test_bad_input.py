"""User errors: one sentence that names the cause, and exit code 2."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.commands import Run, sentence

Tiny = tuple[str, ...]

# Where a download would go to fails at once: the tests never wait for a network.
_NO_NETWORK = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")


@pytest.fixture
def train(run: Run, tiny: Tiny, folder_data: Path, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Trains on the folder of tiny pairs."""

    def call(*words: str) -> tuple[int, str, str]:
        data = ("data.format=folder", f"data.root={folder_data}", "data.label_space=scenes")
        return run("train", "v2-small", *tiny, *data, *words, "--out", tmp_path / "run", "--device", "cpu")

    return call


def test_train_accepts_good_input(train: Run, tmp_path: Path) -> None:
    code, _, errors = train()
    assert code == 0, errors
    assert (tmp_path / "run" / "checkpoints" / "step-00000002" / "model.safetensors").is_file()


# --- files -------------------------------------------------------------------------------------------------------


def test_train_names_a_file_that_cannot_be_read(train: Run, folder_data: Path) -> None:
    file = folder_data / "images" / "train" / "a.png"
    file.write_bytes(file.read_bytes()[:2000])
    sentence(train(), file.name)


def test_data_root_that_is_not_there(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    words = ("data.format=folder", f"data.root={tmp_path / 'nowhere'}", "--out", tmp_path / "run")
    sentence(run("train", "v2-small", *tiny, *words), tmp_path / "nowhere")


def test_one_side_that_was_not_given(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    words = ("data.format=folder", f"data.labels.root={tmp_path}", "--out", tmp_path / "run")
    sentence(run("train", "v1-small", *tiny, *words), "data.labels.root is set", "add data.images.root=")


# --- settings ----------------------------------------------------------------------------------------------------


def test_train_names_a_wrong_setting_and_makes_no_folder(run: Run, tmp_path: Path) -> None:
    words = ("train", "v2-small", "train.batch_size=many", "--out", tmp_path / "run")
    sentence(run(*words), "train.batch_size", "'many'", "whole number")
    assert not (tmp_path / "run").exists()


def test_missing_weights_offline(train: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in _NO_NETWORK:
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    sentence(train("backbone.discriminator=vgg16"), "vgg16", tmp_path / "torch" / "hub" / "checkpoints")


# --- runs, checkpoints, output -----------------------------------------------------------------------------------


def test_generating_with_weights_of_another_label_space(run: Run, folder_data: Path, run_folder: Path) -> None:
    words = ("generate", run_folder, folder_data / "labels", "--out", folder_data / "out")
    sentence(run(*words, "--label-space", "cityscapes"), "scenes", "cityscapes")
    assert not (folder_data / "out").exists()


needs_users = pytest.mark.skipif(not hasattr(os, "setresuid"), reason="changes the user of the process, as on Linux")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Take the right to write into a folder; root, who may everything, is someone else for a while."""
    mode = folder.stat().st_mode
    folder.chmod(0o555)
    root = os.geteuid() == 0
    try:
        if root:
            os.setresuid(65534, 65534, 0)
        yield
    finally:
        if root:
            os.setresuid(0, 0, 0)
        folder.chmod(mode)


def open_to_all(folder: Path) -> None:
    """Let everybody read a folder, what is in it, and the way to it."""
    for path in [*folder.rglob("*"), folder, *folder.parents]:
        if path.stat().st_uid == os.geteuid() and path.is_relative_to(Path(tempfile.gettempdir())):
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))


@needs_users
def test_no_permission_to_write_a_run(train: Run, run: Run, tiny: Tiny, tmp_path: Path) -> None:
    assert train()[0] == 0  # so that every module is loaded before this process may read less
    target = tmp_path / "locked"
    target.mkdir()
    open_to_all(tmp_path)
    with locked(target):
        result = run("train", "v2-small", *tiny, "--out", target / "run", "--device", "cpu")
    sentence(result, "no permission", target)
    assert list(target.iterdir()) == []


@needs_users
def test_no_permission_to_write_pictures(run: Run, run_folder: Path, folder_data: Path, tmp_path: Path) -> None:
    words = ("generate", run_folder, folder_data / "labels", "--device", "cpu", "--out")
    assert run(*words, tmp_path / "out")[0] == 0
    target = tmp_path / "locked"
    target.mkdir()
    open_to_all(tmp_path)
    open_to_all(run_folder)
    with locked(target):
        result = run(*words, target / "out")
    sentence(result, "permission", target)
    assert list(target.iterdir()) == []
