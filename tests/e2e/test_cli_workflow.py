"""Complete command-line workflow: scenes, check, preview, train, resume, generate."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.commands import Run

Tiny = tuple[str, ...]


def pictures(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.png"))}


def test_scenes_are_drawn_checked_and_previewed(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "scenes"
    assert run("data", "scenes", out, "--count", 3, "--size", "64x96", "--seed", 1)[0] == 0
    assert len(list((out / "images").rglob("*.png"))) == len(list((out / "labels").rglob("*.png"))) == 3
    code, output, errors = run("data", "check", out, "--labels", "scenes", "--json")
    assert code == 0, errors
    assert json.loads(output)
    sheet = tmp_path / "sheet.png"
    assert run("data", "preview", out, "--labels", "scenes", "--out", sheet)[0] == 0
    assert min(Image.open(sheet).size) > 64


def test_check_of_a_folder_with_faults_exits_1_and_names_them(run: Run, folder_data: Path) -> None:
    Image.fromarray(np.full((64, 64), 77, dtype=np.uint8)).save(folder_data / "labels" / "train" / "a.png")
    (folder_data / "labels" / "train" / "b.png").unlink()
    code, output, errors = run("data", "check", folder_data, "--labels", "scenes")
    assert code == 1
    assert "a.png" in output + errors
    assert "b.png" in output + errors
    assert "77" in output + errors


def test_formats_without_labels_of_their_own_ask_for_them(run: Run, folder_data: Path) -> None:
    code, _, errors = run("data", "check", folder_data)
    assert (code, "set --labels" in errors) == (2, True)


def test_generate_writes_skips_and_overwrites_images(
    run: Run, run_folder: Path, folder_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("generate", run_folder, folder_data / "labels" / "val", "--out", out, "--device", "cpu")
    assert run(*words, "--samples", 2)[0] == 0
    first = pictures(out)
    assert len(first) == 4
    assert len(set(first.values())) == 4
    victim = out / next(iter(first))
    shutil.copy(folder_data / "images" / "val" / "c.png", victim)
    assert run(*words, "--samples", 2)[0] == 0
    assert pictures(out) != first
    assert run(*words, "--samples", 2, "--overwrite", "--batch-size", 1)[0] == 0
    again = pictures(out)
    assert again.keys() == first.keys()
    difference = np.asarray(Image.open(victim), dtype=float) - np.asarray(
        Image.open(_write(tmp_path, first[victim.name]))
    )
    assert np.abs(difference).max() <= 1


def _write(folder: Path, content: bytes) -> Path:
    file = folder / "first.png"
    file.write_bytes(content)
    return file


def test_unreadable_label_maps_are_named_and_the_rest_is_made(
    run: Run, run_folder: Path, folder_data: Path, tmp_path: Path
) -> None:
    bad = folder_data / "labels" / "val" / "c.png"
    bad.write_bytes(bad.read_bytes()[:60])
    code, output, errors = run("generate", run_folder, bad.parent, "--out", tmp_path / "out", "--device", "cpu")
    assert code == 1
    assert "c.png" in output + errors
    assert len(pictures(tmp_path / "out")) == 1


def test_generate_interpolates_between_two_seeds(run: Run, run_folder: Path, folder_data: Path, tmp_path: Path) -> None:
    words = ("generate", run_folder, folder_data / "labels" / "val" / "c.png", "--out", tmp_path / "out")
    assert run(*words, "--interpolate", "3,8", "--steps", 3)[0] == 0
    assert len(pictures(tmp_path / "out")) == 3
    assert run(*words, "--interpolate", "3")[0] == 2


def test_generate_refuses_contradicting_options(run: Run, run_folder: Path, folder_data: Path, tmp_path: Path) -> None:
    words = ("generate", run_folder, folder_data / "labels" / "val" / "c.png", "--out", tmp_path / "out")
    code, _, error = run(*words, "--fast", "--optimize", "plain")
    assert code == 2
    assert error == "error: --fast and --optimize plain contradict each other; omit one of them\n"
    assert not (tmp_path / "out").exists()
    assert run(*words, "--fast", "--optimize", "fast")[0] == 0


def test_resuming_needs_no_preset(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code, output, _ = run("train", "v2-small", *tiny, "--resume", "auto", "--out", folder, "--device", "cpu")
    assert code == 0
    assert f"lab2pix generate {folder} LABELS" in output
    weights = (folder / "checkpoints" / "step-00000002" / "model.safetensors").read_bytes()
    assert run("train", "--resume", "--out", folder, "--device", "cpu")[0] == 0
    assert (folder / "checkpoints" / "step-00000002" / "model.safetensors").read_bytes() == weights
    assert run("train", "--resume", "auto", "v2-small", *tiny, "--out", folder, "--device", "cpu")[0] == 0
    assert run("train", "monitor.log_every=1", "--resume", "--out", folder, "--device", "cpu")[0] == 0
    code, _, error = run("train", "generator.width=8", "--resume", "--out", folder, "--device", "cpu")
    assert code == 2
    assert "generator.width" in error


def test_a_run_lies_in_runs_by_default(run: Run, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("train", "v2-small", *tiny, "name=mine", "--device", "cpu")[0] == 0
    assert (tmp_path / "runs" / "mine" / "config.yaml").is_file()


def test_cli_errors_in_a_subprocess(tmp_path: Path) -> None:
    words = ["train", "v2-small", "generator.widht=3", "--out", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-m", "lab2pix", *words], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: unknown setting 'generator.widht'; did you mean 'generator.width'?\n"


def test_parity_command_passes_golden_vectors_only(run: Run, golden_root: Path, tmp_path: Path) -> None:
    assert run("parity", golden_root / "v2_normal.safetensors")[0] == 0
    (tmp_path / "none.safetensors").write_bytes(b"nothing")
    assert run("parity", tmp_path / "none.safetensors")[0] == 1
