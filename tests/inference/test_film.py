from __future__ import annotations

import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab2pix.errors import DataError, OutputError
from lab2pix.inference import Synthesizer, film
from tests.helpers.commands import Run, sentence
from tests.helpers.generators import tiny_synthesizer


def write_frames(folder: Path, *grays: int, side: int = 16) -> list[Path]:
    """Write gray frames `f0.png`, `f1.png`, ..."""
    folder.mkdir(exist_ok=True)
    files = [folder / f"f{number}.png" for number in range(len(grays))]
    for file, gray in zip(files, grays, strict=True):
        Image.new("RGB", (side, side), (gray, gray, gray)).save(file)
    return files


@pytest.fixture
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "find_encoder", lambda: None)


def test_film_has_the_frames_in_order_of_their_numbers(tmp_path: Path, no_ffmpeg: None) -> None:
    grays = tuple(range(0, 240, 20))
    files = write_frames(tmp_path / "out", *grays)
    assert files[10].name < files[2].name  # as text
    film.write_film(film.film_path(tmp_path, overwrite=False), files[::-1], 25)
    with Image.open(tmp_path / "frames.webp") as made:
        assert made.n_frames == 12
        shown = []
        for number in range(12):
            made.seek(number)
            made.load()
            assert made.info["duration"] == 40
            shown.append(float(np.asarray(made.convert("RGB")).mean()))
    assert np.abs(np.array(shown) - grays).max() < 4


def test_ffmpeg_gets_the_frames_in_order_and_its_error_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nfor last; do :; done\necho "$@" > "$0.words"\ncat > "$last"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    files = write_frames(tmp_path / "out", 10, 200)
    made = film.film_path(tmp_path, overwrite=False)
    film.write_film(made, files[::-1], 12)
    assert made.name == "frames.mp4"
    assert made.read_bytes() == files[0].read_bytes() + files[1].read_bytes()
    assert "-framerate 12 " in Path(f"{program}.words").read_text()
    program.write_text("#!/bin/sh\necho no libx264 >&2\nexit 1\n")
    with pytest.raises(OutputError, match=r"ffmpeg cannot encode .*frames\.mp4 \(no libx264\)"):
        film.write_film(made, files, 12)
    assert made.read_bytes().startswith(b"\x89PNG")  # the former one


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_ffmpeg_encodes_frames_of_odd_sides(tmp_path: Path) -> None:
    files = write_frames(tmp_path / "out", 10, 100, 200, side=33)
    made = film.film_path(tmp_path, overwrite=False)
    film.write_film(made, files, 24)
    assert made.read_bytes()[4:8] == b"ftyp"


def test_frames_of_different_sizes_are_no_film(tmp_path: Path, no_ffmpeg: None) -> None:
    files = [*write_frames(tmp_path / "a", 1), *write_frames(tmp_path / "b", 1, side=20)]
    with pytest.raises(DataError, match="frames of one size"):
        film.write_film(tmp_path / "frames.webp", files, 24)
    assert not (tmp_path / "frames.webp").exists()


@pytest.mark.slow
def test_command_writes_frames_of_one_seed_and_their_film(run: Run, tmp_path: Path, no_ffmpeg: None) -> None:
    model: Synthesizer = tiny_synthesizer()
    weights, labels, out = model.save(tmp_path / "model"), tmp_path / "labels", tmp_path / "out"
    labels.mkdir()
    for number in (1, 2, 10):
        Image.fromarray(np.full((64, 64), number, np.uint8)).save(labels / f"{number}.png")
    words = ("generate", weights, labels, "--out", out, "--frames", "--seed", 5, "--fps", 10)
    code, said, _ = run(*words)
    assert code == 0 and said.endswith("frames.webp written\n")
    ten, two = (np.asarray(Image.open(out / f"{number}.png")).astype(int) for number in (10, 2))
    np.testing.assert_array_equal(ten, np.asarray(model(labels / "10.png", seed=5).images[0]))
    with Image.open(out / "frames.webp") as made:
        made.seek(2)
        last = np.asarray(made.convert("RGB"))
    assert np.abs(last - ten).mean() < np.abs(last - two).mean() / 2
    sentence(run(*words), "frames.webp exists", "--overwrite")
    sentence(run(*words, "--samples", 2), "--frames is a film of one image per label map")
