"""User errors: one sentence that names the cause, and exit code 2."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., tuple[int, str, str]]
Tiny = tuple[str, ...]

# Where a download would go to fails at once: the tests never wait for a network.
_NO_NETWORK = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network and an empty torch hub cache, whose folder of weights is returned."""
    for name in _NO_NETWORK:
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    return checkpoints


def sentence(result: tuple[int, str, str], *parts: object) -> str:
    """Check that a command failed as it should, and that its message holds all the parts."""
    code, _, errors = result
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert code == 2, errors
    assert len(lines) == 1, errors
    assert errors.rstrip().endswith(lines[0]), errors
    for part in parts:
        assert str(part) in lines[0]
    assert "Traceback" not in errors
    return lines[0]


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


def test_label_id_out_of_range(train: Run, folder_data: Path) -> None:
    file = folder_data / "labels" / "train" / "a.png"
    Image.fromarray(np.full((64, 64), 77, dtype=np.uint8)).save(file)
    sentence(train(), file.name, "77", "scenes")


def test_train_names_a_truncated_png(train: Run, folder_data: Path) -> None:
    file = folder_data / "images" / "train" / "a.png"
    file.write_bytes(file.read_bytes()[:2000])
    sentence(train(), file.name)


def test_file_that_is_no_image(train: Run, folder_data: Path) -> None:
    file = folder_data / "images" / "train" / "a.png"
    file.write_text("not a picture")
    sentence(train(), file.name)


def test_photo_without_label(train: Run, folder_data: Path) -> None:
    (folder_data / "labels" / "train" / "b.png").unlink()
    sentence(train(), "b.png")


def test_sizes_that_disagree(train: Run, folder_data: Path) -> None:
    file = folder_data / "labels" / "train" / "a.png"
    Image.fromarray(np.zeros((48, 80), dtype=np.uint8)).save(file)
    sentence(train(), "a.png", "48", "80", "64")


def test_train_refuses_colors_of_no_class(train: Run, folder_data: Path) -> None:
    file = folder_data / "labels" / "train" / "a.png"
    Image.fromarray(np.full((64, 64, 3), (255, 0, 255), dtype=np.uint8)).save(file)
    sentence(train(), file.name, "scenes")


def test_data_root_that_is_not_there(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    words = ("data.format=folder", f"data.root={tmp_path / 'nowhere'}", "--out", tmp_path / "run")
    sentence(run("train", "v2-small", *tiny, *words), tmp_path / "nowhere")


def test_data_root_that_was_not_given(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    words = ("data.format=folder", "--out", tmp_path / "run")
    sentence(run("train", "v2-small", *tiny, *words), "data.root is not set: add data.root=")
    assert not (tmp_path / "run").exists()


def test_one_side_that_was_not_given(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    words = ("data.format=folder", f"data.labels.root={tmp_path}", "--out", tmp_path / "run")
    sentence(run("train", "v1-small", *tiny, *words), "data.labels.root is set", "add data.images.root=")


# --- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("data.size=[64,12]", ("data.size", "[64, 12]", "multiples of 32", "[64, 64]")),
        ("generator.widht=4", ("generator.widht", "did you mean 'generator.width'")),
        ("train.batch_size=many", ("train.batch_size", "'many'", "whole number")),
        ("data.label_space=scene", ("data.label_space", "did you mean 'scenes'")),
        ("data.format=fodler", ("data.format", "did you mean 'folder'")),
        ("train.batch_size=3", ("train.batch_size", "train.accumulate")),
    ],
)
def test_train_settings_errors_are_one_sentence(run: Run, tmp_path: Path, word: str, parts: tuple[str, ...]) -> None:
    sentence(run("train", "v2-small", "train.accumulate=2", word, "--out", tmp_path / "run"), *parts)
    assert not (tmp_path / "run").exists()


def test_train_refuses_an_unknown_preset(run: Run, tmp_path: Path) -> None:
    sentence(run("train", "v2-smal", "--out", tmp_path / "run"), "'v2-smal'", "did you mean 'v2-small'")


def test_train_refuses_an_unknown_device(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    sentence(run("train", "v2-small", *tiny, "--out", tmp_path / "run", "--device", "cpuu"), "cpuu")


# --- weights of the frozen networks ------------------------------------------------------------------------------


def test_missing_weights_file(train: Run, offline: Path, tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "vgg16.pth"
    sentence(train("backbone.discriminator=vgg16", f"backbone.weights.vgg16={file}"), file)


def test_missing_weights_offline(train: Run, offline: Path) -> None:
    sentence(train("backbone.discriminator=vgg16"), "vgg16", offline)


def test_weights_file_with_a_wrong_hash(train: Run, offline: Path, tmp_path: Path) -> None:
    file = tmp_path / "vgg16.pth"
    file.write_bytes(b"something else")
    sentence(train("backbone.discriminator=vgg16", f"backbone.weights.vgg16={file}"), file)


def test_cached_weights_with_a_wrong_hash(train: Run, offline: Path) -> None:
    for name in ("vgg16-397923af.pth", "vgg16_features-amdegroot-88682ab5.pth"):
        (offline / name).write_bytes(b"something else")
    sentence(train("backbone.discriminator=vgg16"), "vgg16-397923af.pth")


# --- runs, checkpoints, output -----------------------------------------------------------------------------------


def test_output_folder_with_another_run(run: Run, tiny: Tiny, run_folder: Path) -> None:
    before = sorted(run_folder.rglob("*"))
    sentence(run("train", "v2-small", *tiny, "--out", run_folder), run_folder, "--resume")
    assert sorted(run_folder.rglob("*")) == before


def test_output_folder_with_other_files(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    sentence(run("train", "v2-small", *tiny, "--out", tmp_path), tmp_path, "letter.txt")


def test_resume_of_a_missing_run_is_refused(run: Run, tmp_path: Path) -> None:
    sentence(run("train", "--resume", "--out", tmp_path / "run"), tmp_path / "run")


def test_resume_with_another_label_space(run: Run, tiny: Tiny, run_folder: Path) -> None:
    words = ("data.label_space=facades", "--resume", "--out", run_folder)
    sentence(run("train", "v2-small", *tiny, *words), "data.label_space", "scenes", "facades")


def test_checkpoint_of_another_label_space(train: Run, tmp_path: Path) -> None:
    space = tmp_path / "own.yaml"
    text = "name: own\nclasses:\n" + "".join(f"  - {{name: c{i}, color: [{i}, 9, 200]}}\n" for i in range(6))
    space.write_text(text)
    own = f"data.label_space={space}"
    assert train(own)[0] == 0
    space.write_text(text.replace("c5", "other"))
    sentence(train(own, "--resume"), "label space")


def test_generating_with_weights_of_another_label_space(run: Run, folder_data: Path, run_folder: Path) -> None:
    words = ("generate", run_folder, folder_data / "labels", "--out", folder_data / "out")
    sentence(run(*words, "--label-space", "cityscapes"), "scenes", "cityscapes")
    assert not (folder_data / "out").exists()


def test_weights_that_are_not_there(run: Run, folder_data: Path, tmp_path: Path, offline: Path) -> None:
    words = ("generate", tmp_path / "nowhere", folder_data / "labels", "--out", tmp_path / "out")
    sentence(run(*words), "nowhere")


def test_generate_names_broken_weights(run: Run, run_folder: Path, folder_data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run_folder, copy)
    file = next(copy.rglob("model.safetensors"))
    file.write_bytes(file.read_bytes()[:100])
    sentence(run("generate", copy, folder_data / "labels", "--out", tmp_path / "out"), "model.safetensors")


def test_label_maps_that_are_not_there(run: Run, run_folder: Path, tmp_path: Path) -> None:
    sentence(run("generate", run_folder, tmp_path / "nowhere", "--out", tmp_path / "out"), tmp_path / "nowhere")


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


@pytest.mark.parametrize("empty", ["labels", "images"])
def test_an_unpaired_set_with_an_empty_side_is_refused(run: Run, folder_data: Path, tmp_path: Path, empty: str) -> None:
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    sides = {side: folder_data / side / "train" for side in ("labels", "images")} | {empty: nothing}
    roots = (f"data.{side}.root={root}" for side, root in sides.items())
    words = ("data.format=folder", "data.val_split=null", *roots, "--out", tmp_path / "run", "--device", "cpu")
    sentence(run("train", "v1-small", *words), nothing)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fault", ["colours", "tones"])
def test_a_file_that_is_no_line_drawing_is_refused(run: Run, tmp_path: Path, fault: str) -> None:
    root = tmp_path / "shoes" / "train"
    root.mkdir(parents=True)
    left = np.full((64, 64, 3), 255, dtype=np.uint8)
    left[8:56, 20:24] = 0
    if fault == "colours":
        left[30:50, 30:50] = (200, 20, 20)
    else:
        left[:, :] = np.arange(64, dtype=np.uint8)[None, :, None] * 4
    for name in ("a", "b"):
        Image.fromarray(np.concatenate([left, np.full_like(left, 90)], 1)).save(root / f"{name}.png")
    sketches = ("data.sketch.from=files", "data.sketch.label_space=null", "data.val_split=null", "data.size=[64,64]")
    small = ("generator.width=4", "discriminator.width=4", "discriminator.max_width=8", "segmenter.width=4")
    words = ("data.format=sketch", f"data.root={root.parent}", *sketches, *small, "train.steps=1")
    sentence(run("train", "v1-small-sketch", *words, "--out", tmp_path / "run", "--device", "cpu"), ".png", fault)
