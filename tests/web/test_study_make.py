"""Making a study: what is chosen, what the pictures are called, what is refused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab2pix.errors import ConfigError, DataError, LabelError, OutputError
from lab2pix.labels.space import LabelSpace
from lab2pix.web.study_make import MadeStudy, read_methods
from lab2pix.web.study_samples import Study

Make = Callable[..., MadeStudy]
METHODS = ("spade", "lab2pix-v2", "no norm")


def pixel(folder: Path, token: str) -> tuple[int, ...]:
    return tuple(np.asarray(Image.open(folder / "pictures" / f"{token}.png"))[0, 0].tolist())


def test_every_sample_holds_the_pictures_of_its_name(study_folder: Path, study: Study) -> None:
    sky = tuple(LabelSpace.load("scenes").palette[0].tolist())
    for sample in study.pool:
        assert pixel(study_folder, sample.label) == sky
        assert pixel(study_folder, sample.truth or "") == (40, 40, 40)
        grays = [pixel(study_folder, sample.pictures[method])[0] for method in METHODS]
        assert grays == [80, 120, 160]
        assert (sample.size, sample.classes) == ([6, 8], [0, 3])
    assert sorted(sample.name for sample in study.pool) == ["a", "b", "city/c", "d", "e", "f"]


def test_names_of_files_tell_nothing(study_folder: Path, study: Study) -> None:
    files = list((study_folder / "pictures").iterdir())
    assert len(files) == 6 * 5
    assert all(re.fullmatch(r"[0-9a-f]{16}\.png", file.name) for file in files)
    assert {file.suffix for file in study_folder.iterdir()} == {"", ".json"}


def test_the_seed_chooses(make: Make, tmp_path: Path) -> None:
    chosen = {
        seed: [sample.name for sample in make(out=tmp_path / f"s{seed}", seed=seed, pool=3, samples=3).study.pool]
        for seed in range(8)
    }
    again = make(out=tmp_path / "again", seed=3, pool=3, samples=3).study
    assert [sample.name for sample in again.pool] == chosen[3]
    assert len({tuple(names) for names in chosen.values()}) > 1
    assert {name for names in chosen.values() for name in names} == {"a", "b", "city/c", "d", "e", "f"}


def test_suffixes_do_not_matter_and_everything_becomes_png(
    make: Make, folders: dict[str, Path], study_folder: Path, tmp_path: Path
) -> None:
    for file in list(folders["spade"].rglob("*.png")):
        Image.open(file).save(file.with_suffix(".jpg"))
        file.unlink()
    made = make(out=tmp_path / "mixed")
    token = made.study.pool[0].pictures["spade"]
    with Image.open(tmp_path / "mixed" / "pictures" / f"{token}.png") as image:
        assert (image.format, image.info) == ("PNG", {})


def test_without_truth(make: Make) -> None:
    study = make(truth=None).study
    assert {sample.truth for sample in study.pool} == {None}
    assert len(study.pool[0].tokens) == 4


def test_without_label_space(make: Make, folders: dict[str, Path], tmp_path: Path) -> None:
    made = make(label_space=None)
    study = Study.load(tmp_path / "study")
    assert study == made.study
    assert (study.format, study.label_space, study.classes) == ("lab2pix-study/1", None, [])
    assert {tuple(sample.size) for sample in study.pool} == {(6, 8)}
    assert [sample.classes for sample in study.pool] == [[]] * 6
    assert {pixel(tmp_path / "study", sample.label) for sample in study.pool} == {(255, 255, 255)}
    assert "label maps are shown as they are, without a legend" in str(made)
    assert "as they are" not in str(make(out=tmp_path / "named"))


def test_a_label_map_that_cannot_be_shown_leaves_nothing_behind(
    make: Make, folders: dict[str, Path], tmp_path: Path
) -> None:
    (folders["labels"] / "b.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"b\.png"):
        make(label_space=None)
    assert not (tmp_path / "study").exists()


def test_other_sizes_are_told(make: Make, folders: dict[str, Path]) -> None:
    file = folders["spade"] / "a.png"
    Image.open(file).resize((16, 12)).save(file)
    made = make()
    assert made.other_sizes == 1
    assert "in 1 sample the methods' pictures differ in size" in str(made)


def test_missing_names_are_left_out_if_allowed(make: Make, folders: dict[str, Path]) -> None:
    (folders["spade"] / "b.png").unlink()
    made = make(allow_missing=True, samples=5, pool=None)
    assert made.study.left_out == ["b"]
    assert "b" not in made.study.by_name
    assert "1 name left out that not all folders have: b" in str(made)


def test_progress_is_told(make: Make) -> None:
    calls: list[tuple[int, int]] = []
    make(on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 6) for done in range(6)]


# --- what is refused, and that nothing is left behind ---------------------------------------------------------------


def test_names_that_do_not_match(make: Make, folders: dict[str, Path], tmp_path: Path) -> None:
    (folders["spade"] / "b.png").unlink()
    with pytest.raises(DataError, match=r"pictures of 'spade'\) lacks b; add the files, or .*--allow-missing"):
        make()
    assert not (tmp_path / "study").exists()


def test_fewer_than_asked_for(make: Make) -> None:
    with pytest.raises(DataError, match="share 6 names, but 7 are asked for; lower --samples and --pool to 6"):
        make(samples=7, pool=None)
    with pytest.raises(ConfigError, match="--pool is 3, but each participant shall rank 4"):
        make(pool=3)


@pytest.mark.parametrize("which", ["labels", "truth", "spade"])
def test_a_folder_without_pictures_or_none(make: Make, folders: dict[str, Path], which: str) -> None:
    shutil.rmtree(folders[which])
    with pytest.raises(DataError, match="there is no folder"):
        make()
    folders[which].mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        make()


def test_a_label_map_of_another_label_space(make: Make, folders: dict[str, Path], tmp_path: Path) -> None:
    Image.fromarray(np.full((6, 8), 200, dtype=np.uint8)).save(folders["labels"] / "b.png")
    with pytest.raises(LabelError, match=r"b\.png.*200"):
        make()
    assert not (tmp_path / "study").exists()


def test_an_empty_folder_stays_where_making_fails(make: Make, folders: dict[str, Path], tmp_path: Path) -> None:
    (folders["spade"] / "f.png").write_bytes(b"no picture")
    (tmp_path / "study").mkdir()
    with pytest.raises(DataError, match=r"f\.png"):
        make()
    assert list((tmp_path / "study").iterdir()) == []


def test_a_folder_that_holds_something(make: Make, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds something already"):
        make()
    assert (tmp_path / "study" / "mine.txt").read_text() == "mine"


def test_a_study_among_the_pictures(make: Make, folders: dict[str, Path]) -> None:
    with pytest.raises(OutputError, match="lies inside"):
        make(out=folders["spade"] / "study")
    assert not (folders["spade"] / "study").exists()


def test_words_for_methods() -> None:
    assert read_methods(["a=x/y", " b =z=1"]) == {"a": Path("x/y"), "b": Path("z=1")}


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["a=x", "b"], "'b' must be METHOD=DIR"),
        (["a=x", "=y"], "'=y' must be METHOD=DIR"),
        (["a=x", "b="], "'b=' must be METHOD=DIR"),
        (["a=x", "a=y"], "Two methods are called 'a'"),
        (["a=x"], "2 to 9 methods"),
        ([f"m{number}={number}" for number in range(10)], "2 to 9 methods"),
        (["a=x", "b=x/"], "have the same folder"),
        (["a=x", f"{'b' * 61}=y"], "at most 60 characters"),
        (["a=x", "b\x1b[31m=y"], "can be shown"),
    ],
)
def test_words_that_are_no_methods(words: list[str], part: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_methods(words)
    assert part in str(error.value)
