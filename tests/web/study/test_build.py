"""Building a study: chosen samples, anonymous files, and refused input."""

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
from lab2pix.web.study.build import BuiltStudy, parse_methods
from lab2pix.web.study.samples import Study

Build = Callable[..., BuiltStudy]
METHODS = ("spade", "lab2pix-v2", "no norm")


def pixel(folder: Path, token: str) -> tuple[int, ...]:
    return tuple(np.asarray(Image.open(folder / "images" / f"{token}.png"))[0, 0].tolist())


def test_sample_has_the_images_of_its_name(study_folder: Path, study: Study) -> None:
    sky = tuple(LabelSpace.load("scenes").palette[0].tolist())
    for sample in study.pool:
        assert pixel(study_folder, sample.label) == sky
        assert pixel(study_folder, sample.truth or "") == (40, 40, 40)
        grays = [pixel(study_folder, sample.images[method])[0] for method in METHODS]
        assert grays == [80, 120, 160]
        assert (sample.size, sample.classes) == ([6, 8], [0, 3])
    assert sorted(sample.name for sample in study.pool) == ["a", "b", "city/c", "d", "e", "f"]


def test_first_of_several_samples_is_shown(build: Build, folders: dict[str, Path]) -> None:
    folder = folders["spade"]
    for file in list(folder.rglob("*.png")):
        shutil.copy(file, file.with_name(f"{file.stem}_1.png"))
        Image.fromarray(np.full((6, 8, 3), 7, dtype=np.uint8)).save(file.with_name(f"{file.stem}_0.png"))
        file.unlink()
    built = build()
    assert all(pixel(built.folder, sample.images["spade"]) == (7, 7, 7) for sample in built.study.pool)
    assert "'spade' has 2 images per label map" in str(built)


def test_file_names_are_anonymous(study_folder: Path, study: Study) -> None:
    files = list((study_folder / "images").iterdir())
    assert len(files) == 6 * 5
    assert all(re.fullmatch(r"[0-9a-f]{16}\.png", file.name) for file in files)
    assert {file.suffix for file in study_folder.iterdir()} == {"", ".json"}


def test_seed_selects_samples(build: Build, tmp_path: Path) -> None:
    chosen = {
        seed: [sample.name for sample in build(out=tmp_path / f"s{seed}", seed=seed, pool=3, samples=3).study.pool]
        for seed in range(8)
    }
    again = build(out=tmp_path / "again", seed=3, pool=3, samples=3).study
    assert [sample.name for sample in again.pool] == chosen[3]
    assert len({tuple(names) for names in chosen.values()}) > 1
    assert {name for names in chosen.values() for name in names} == {"a", "b", "city/c", "d", "e", "f"}


def test_files_of_all_formats_become_png(
    build: Build, folders: dict[str, Path], study_folder: Path, tmp_path: Path
) -> None:
    for file in list(folders["spade"].rglob("*.png")):
        Image.open(file).save(file.with_suffix(".jpg"))
        file.unlink()
    built = build(out=tmp_path / "mixed")
    token = built.study.pool[0].images["spade"]
    with Image.open(tmp_path / "mixed" / "images" / f"{token}.png") as image:
        assert (image.format, image.info) == ("PNG", {})


def test_transparent_images_are_shown_on_white(build: Build, folders: dict[str, Path], tmp_path: Path) -> None:
    for file in list(folders["spade"].rglob("*.png")):
        Image.new("RGBA", Image.open(file).size, (9, 9, 9, 0)).save(file)
    built = build(out=tmp_path / "clear")
    assert all(pixel(built.folder, sample.images["spade"]) == (255, 255, 255) for sample in built.study.pool)


def test_build_without_truth(build: Build) -> None:
    study = build(truth=None).study
    assert {sample.truth for sample in study.pool} == {None}
    assert len(study.pool[0].tokens) == 4


def test_build_without_label_space(build: Build, folders: dict[str, Path], tmp_path: Path) -> None:
    built = build(label_space=None)
    study = Study.load(tmp_path / "study")
    assert study == built.study
    assert (study.format, study.label_space, study.classes) == ("lab2pix-study/1", None, [])
    assert {tuple(sample.size) for sample in study.pool} == {(6, 8)}
    assert [sample.classes for sample in study.pool] == [[]] * 6
    assert {pixel(tmp_path / "study", sample.label) for sample in study.pool} == {(255, 255, 255)}
    assert "label maps are shown as they are, without a legend" in str(built)
    assert "as they are" not in str(build(out=tmp_path / "named"))


def test_unreadable_label_map_leaves_no_folder(build: Build, folders: dict[str, Path], tmp_path: Path) -> None:
    (folders["labels"] / "b.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"b\.png"):
        build(label_space=None)
    assert not (tmp_path / "study").exists()


def test_mixed_sizes_are_reported(build: Build, folders: dict[str, Path]) -> None:
    file = folders["spade"] / "a.png"
    Image.open(file).resize((16, 12)).save(file)
    built = build()
    assert built.mixed_sizes == 1
    assert "in 1 sample the methods' images differ in size" in str(built)


def test_missing_names_are_left_out_if_allowed(build: Build, folders: dict[str, Path]) -> None:
    (folders["spade"] / "b.png").unlink()
    built = build(allow_missing=True, samples=5, pool=None)
    assert built.study.left_out == ["b"]
    assert "b" not in built.study.by_name
    assert "1 name left out because a folder lacks it: b" in str(built)


def test_build_reports_progress(build: Build) -> None:
    calls: list[tuple[int, int]] = []
    build(on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 6) for done in range(6)]


# --- refused input --------------------------------------------------------------------------------------------------


def test_missing_names_are_refused(build: Build, folders: dict[str, Path], tmp_path: Path) -> None:
    (folders["spade"] / "b.png").rename(folders["spade"] / "x.png")
    with pytest.raises(
        DataError, match=r"labels \(label maps\) lacks x, and 4 other folders lack names too; .*--allow-missing"
    ):
        build()
    assert not (tmp_path / "study").exists()


def test_names_that_nearly_match_are_named(build: Build, folders: dict[str, Path]) -> None:
    for file in folders["spade"].iterdir():
        file.rename(file.with_stem(f"{file.stem}_fake"))
    with pytest.raises(DataError, match="images of 'spade' end in '_fake'; rename them without it"):
        build()


def test_too_few_names_are_refused(build: Build) -> None:
    with pytest.raises(DataError, match="share 6 names, but 7 are requested; lower --count and --pool to at most 6"):
        build(samples=7, pool=None)
    with pytest.raises(ConfigError, match="--pool is 3, but each participant ranks 4"):
        build(pool=3)


@pytest.mark.parametrize("which", ["labels", "truth", "spade"])
def test_missing_or_empty_folder_is_refused(build: Build, folders: dict[str, Path], which: str) -> None:
    shutil.rmtree(folders[which])
    with pytest.raises(DataError, match="no folder"):
        build()
    folders[which].mkdir()
    with pytest.raises(DataError, match=r"no (pictures|images)"):
        build()


def test_label_map_of_another_label_space_is_refused(build: Build, folders: dict[str, Path], tmp_path: Path) -> None:
    Image.fromarray(np.full((6, 8), 200, dtype=np.uint8)).save(folders["labels"] / "b.png")
    with pytest.raises(LabelError, match=r"b\.png.*200"):
        build()
    assert not (tmp_path / "study").exists()


def test_failed_build_keeps_an_existing_empty_folder(build: Build, folders: dict[str, Path], tmp_path: Path) -> None:
    (folders["spade"] / "f.png").write_bytes(b"no image")
    (tmp_path / "study").mkdir()
    with pytest.raises(DataError, match=r"f\.png"):
        build()
    assert list((tmp_path / "study").iterdir()) == []


def test_nonempty_out_folder_is_refused(build: Build, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty"):
        build()
    assert (tmp_path / "study" / "mine.txt").read_text() == "mine"


def test_out_folder_inside_a_source_is_refused(build: Build, folders: dict[str, Path]) -> None:
    with pytest.raises(OutputError, match="is inside"):
        build(out=folders["spade"] / "study")
    assert not (folders["spade"] / "study").exists()


def test_parse_methods() -> None:
    assert parse_methods(["a=x/y", " b =z=1"]) == {"a": Path("x/y"), "b": Path("z=1")}


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
        (["a=x", "b\x1b[31m=y"], "all printable"),
    ],
)
def test_invalid_method_arguments_are_refused(words: list[str], part: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_methods(words)
    assert part in str(error.value)
