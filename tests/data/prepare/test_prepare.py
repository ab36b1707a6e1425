"""`lab2pix data prepare`: each published set from tiny downloads, resuming, and missing or hostile parts."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
from PIL import Image

from lab2pix.cli import data as cli_data
from lab2pix.data.formats import find_pairs
from lab2pix.data.prepare import PUBLISHED_SETS, prepare_set
from lab2pix.errors import DataError
from lab2pix.labels.space import LabelSpace
from lab2pix.recipes import load_config
from tests.data.prepare.downloads import (
    FRAMES,
    ade20k_files,
    camvid_files,
    cityscapes_files,
    cmp_files,
    facade_pair,
    ids,
    image,
    photo,
    sketch_pair,
    write_coco,
    write_files,
    write_tar,
    write_zip,
)
from tests.helpers.commands import Run, sentence


def prepared(run: Run, name: str, source: Path, out: Path, *words: str) -> str:
    """Prepare a set; the check must find no error, and the named recipe must read the splits."""
    code, output, errors = run("data", "prepare", name, source, out, *words)
    assert code == 0, output + errors
    assert "No errors" in output or "Everything is in order" in output
    return output


def read_splits(name: str, out: Path) -> dict[str, int]:
    """Return the number of pairs per split, all of them read with the settings that training is told to use."""
    published = PUBLISHED_SETS[name]
    preset, *settings = published.train.replace("'", "").split()
    data = load_config(preset, [*settings, f"data.root={out}"]).data
    assert data.root is not None and data.train_split is not None and data.val_split is not None
    space = LabelSpace.load(data.label_space)
    assert (data.format, data.label_space) == (published.format, published.label_space)
    counts = {}
    for split in (data.train_split, data.val_split):
        pairs = find_pairs(data.format, data.root, split)
        counts[split] = len(pairs)
        for pair in pairs:
            assert pair.read_label(space).shape == pair.read_image().shape[1:]
            assert (pair.instance is not None) == (name in ("cityscapes", "coco-stuff"))
    return counts


def test_the_command_offers_all_sets() -> None:
    offered = get_args(get_args(get_type_hints(cli_data._data_prepare, include_extras=True)["dataset"])[0])
    assert list(offered) == list(PUBLISHED_SETS) == sorted(PUBLISHED_SETS)


@pytest.mark.parametrize("name", PUBLISHED_SETS)
def test_each_set_has_a_page_with_its_commands(name: str) -> None:
    folder = Path(__file__).parents[3] / "docs/datasets"
    page = (folder / f"{name}.md").read_text(encoding="utf-8").replace(" \\\n    ", " ")
    preset, *settings = PUBLISHED_SETS[name].train.split()
    assert f"$ lab2pix data prepare {name} " in page
    (command,) = [line for line in page.splitlines() if line.startswith("$ lab2pix train")]
    assert {preset, *settings} < set(command.split())
    assert f"({name}.md)" in (folder / "index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("unpacked", [False, True])
def test_cityscapes_from_zips_and_folders(run: Run, tmp_path: Path, unpacked: bool) -> None:
    photos, labels = cityscapes_files()
    if unpacked:
        write_files(tmp_path / "source", photos | labels)
    else:
        write_zip(tmp_path / "source/leftImg8bit_trainvaltest.zip", photos)
        write_zip(tmp_path / "source/gtFine_trainvaltest.zip", labels)
    output = prepared(run, "cityscapes", tmp_path / "source", tmp_path / "out")
    assert "9 files written" in output
    assert "lab2pix train v2-cityscapes data.root=" in output
    assert read_splits("cityscapes", tmp_path / "out") == {"train": 2, "val": 1}
    name = "gtFine/val/lindau/lindau_000000_000019_gtFine_instanceIds.png"
    assert (tmp_path / "out" / name).read_bytes() == labels[name]
    assert not (tmp_path / "out/leftImg8bit/test").exists()


def test_coco_stuff_draws_instances(run: Run, tmp_path: Path) -> None:
    write_coco(tmp_path / "source")
    prepared(run, "coco-stuff", tmp_path / "source", tmp_path / "out")
    assert read_splits("coco-stuff", tmp_path / "out") == {"train": 1, "val": 1}
    label = np.asarray(Image.open(tmp_path / "out/train_label/000000000009.png"))
    instances = np.asarray(Image.open(tmp_path / "out/train_inst/000000000009.png"))
    assert np.unique(label).tolist() == [0, 5, 123, 255]
    assert (instances[0] == 123).all()
    assert instances[6].tolist() == [258] * 4 + [256] * 4 + [257] * 4 + [255] * 4


def test_prepare_of_one_split(run: Run, tmp_path: Path) -> None:
    write_coco(tmp_path / "source")
    (tmp_path / "source/train2017.zip").unlink()
    sentence(run("data", "prepare", "coco-stuff", tmp_path / "source", tmp_path / "out"), "download train2017.zip")
    prepared(run, "coco-stuff", tmp_path / "source", tmp_path / "out", "--split", "val")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["val_img", "val_inst", "val_label"]
    command = ("data", "prepare", "coco-stuff", tmp_path / "source", tmp_path / "out", "--split", "vall")
    sentence(run(*command), "did you mean 'val'?")


def test_ade20k_from_the_zip_itself(run: Run, tmp_path: Path) -> None:
    write_zip(tmp_path / "ADEChallengeData2016.zip", ade20k_files())
    prepared(run, "ade20k", tmp_path / "ADEChallengeData2016.zip", tmp_path / "out")
    assert read_splits("ade20k", tmp_path / "out") == {"train": 1, "val": 1}


def test_facades_of_pix2pix_are_copied(run: Run, tmp_path: Path) -> None:
    names = [f"facades/{split}/1.jpg" for split in ("train", "val", "test")]
    write_tar(tmp_path / "facades.tar.gz", dict.fromkeys(names, facade_pair()))
    write_tar(tmp_path / "maps.tar.gz", {"maps/train/7.jpg": b"another set"})
    prepared(run, "facades", tmp_path, tmp_path / "out")
    assert read_splits("facades", tmp_path / "out") == {"train": 1, "val": 1}
    assert (tmp_path / "out/test/1.jpg").read_bytes() == facade_pair()


@pytest.mark.slow
def test_cmp_facades_become_pairs_in_one_file(run: Run, tmp_path: Path) -> None:
    base, extended = cmp_files("b", "base", 7), cmp_files("x", "extended", 5)
    write_zip(tmp_path / "CMP_facade_DB_base.zip", base)
    prepared(run, "facades", tmp_path, tmp_path / "out")
    assert read_splits("facades", tmp_path / "out") == {"train": 6, "val": 1}
    write_zip(tmp_path / "CMP_facade_DB_extended.zip", extended)
    assert "5 files written" in prepared(run, "facades", tmp_path, tmp_path / "out")
    assert read_splits("facades", tmp_path / "out") == {"train": 10, "val": 2}
    (pair,) = [pair for pair in find_pairs("facades", tmp_path / "out", "val") if pair.name == "cmp_b0006"]
    assert pair.read_label(LabelSpace.load("facades"))[0].unique().tolist() == [0, 1, 2, 11]
    with Image.open(tmp_path / "out/val/cmp_b0006.png") as both:
        assert both.size == (32, 12)


def test_cmp_facades_need_both_files_of_a_pair_and_one_form(run: Run, tmp_path: Path) -> None:
    files = cmp_files("b", "base", 7)
    write_tar(tmp_path / "both/facades.tar.gz", {"facades/train/1.jpg": facade_pair()})
    write_zip(tmp_path / "both/base.zip", files)
    sentence(run("data", "prepare", "facades", tmp_path / "both", tmp_path / "out"), "name one archive")
    del files["base/cmp_b0003.png"]
    write_zip(tmp_path / "base.zip", files)
    sentence(run("data", "prepare", "facades", tmp_path / "base.zip", tmp_path / "out"), "cmp_b0003.jpg", "no partner")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["edges2shoes", "edges2handbags"])
def test_edges_among_other_downloads(run: Run, tmp_path: Path, name: str) -> None:
    for other in ("edges2shoes", "edges2handbags"):
        files = {
            f"{other}/{split}/{other}{number}_AB.jpg": sketch_pair() for split, number in (("train", 1), ("val", 2))
        }
        write_tar(tmp_path / f"source/{other}.tar.gz", files)
    prepared(run, name, tmp_path / "source", tmp_path / "out")
    assert read_splits(name, tmp_path / "out") == {"train": 1, "val": 1}
    assert (tmp_path / f"out/train/{name}1_AB.jpg").is_file()
    (tmp_path / f"source/{name}.tar.gz").unlink()
    sentence(run("data", "prepare", name, tmp_path / "source", tmp_path / "other"), f"download {name}.tar.gz")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["original", "segnet", "colored"])
def test_camvid_in_its_forms(run: Run, tmp_path: Path, form: str) -> None:
    files = camvid_files(form)
    if form == "original":
        for name in ("701_StillsRaw_full", "LabeledApproved_full"):
            write_zip(tmp_path / f"source/{name}.zip", {key: files[key] for key in files if key.startswith(name)})
    else:
        write_files(tmp_path / "source", files)
    prepared(run, "camvid", tmp_path / "source", tmp_path / "out")
    assert read_splits("camvid", tmp_path / "out") == {"train": 1, "val": 1}
    for split, frame in FRAMES.items():
        label = np.asarray(Image.open(tmp_path / f"out/labels/{split}/{frame}.png"))
        assert (label == ids(4, 4, 11, 8)).all()


def test_camvid_with_a_color_of_no_class(run: Run, tmp_path: Path) -> None:
    files = camvid_files("original")
    files[f"LabeledApproved_full/{FRAMES['val']}_L.png"] = image(np.full((12, 16, 3), (255, 0, 255), dtype=np.uint8))
    write_files(tmp_path / "source", files)
    sentence(run("data", "prepare", "camvid", tmp_path / "source", tmp_path / "out"), f"{FRAMES['val']}_L.png")


# --- resuming, and files that are there -----------------------------------------------------------------------------


class InterruptedRunError(Exception):
    """Ends a run after its first jobs."""


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_coco(tmp_path / "source")
    published, out = PUBLISHED_SETS["coco-stuff"], tmp_path / "out"
    reads: list[str] = []
    read = zipfile.ZipFile.read
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda self, name: reads.append(name.filename) or read(self, name))

    def stop(done: int, total: int) -> None:
        assert total == 4
        if done == 1:
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        prepare_set(published, tmp_path / "source", out, progress=stop)
    first = next(path for path in sorted(out.rglob("*")) if path.is_file())
    before = first.stat().st_mtime_ns
    missing = out / "train_inst/000000000009.png"
    missing.unlink()  # as if the run had ended between the files of a job
    reads.clear()
    assert prepare_set(published, tmp_path / "source", out) == (1, 5)
    assert [name for name in reads if not name.endswith(".json")] == ["train2017/000000000009.png"]
    assert missing.is_file()
    assert first.stat().st_mtime_ns == before
    assert prepare_set(published, tmp_path / "source", out) == (0, 6)
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]


def test_a_file_that_differs_is_not_overwritten(run: Run, tmp_path: Path) -> None:
    write_zip(tmp_path / "ade.zip", ade20k_files())
    mine = tmp_path / "out/ADEChallengeData2016/images/training/ADE_train_00000001.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    sentence(run("data", "prepare", "ade20k", tmp_path / "ade.zip", tmp_path / "out"), mine, "move it away")
    assert mine.read_bytes() == b"mine"


@pytest.mark.slow
def test_output_inside_the_source_is_no_source(run: Run, tmp_path: Path) -> None:
    write_files(tmp_path, ade20k_files())
    for written in (4, 0):
        assert f"{written} files written" in prepared(run, "ade20k", tmp_path, tmp_path / "prepared")
    sentence(run("data", "prepare", "ade20k", tmp_path, tmp_path), "choose another folder")


# --- missing, damaged and hostile downloads -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "download"),
    [
        ("ade20k", "ADEChallengeData2016.zip"),
        ("camvid", "701_StillsRaw_full.zip"),
        ("cityscapes", "leftImg8bit_trainvaltest.zip"),
        ("coco-stuff", "train2017.zip"),
        ("edges2handbags", "edges2handbags.tar.gz"),
        ("edges2shoes", "edges2shoes.tar.gz"),
        ("facades", "facades.tar.gz"),
    ],
)
def test_missing_parts_are_named(run: Run, tmp_path: Path, name: str, download: str) -> None:
    (tmp_path / "source").mkdir()
    sentence(run("data", "prepare", name, tmp_path / "source", tmp_path / "out"), tmp_path / "source", download)


def test_missing_annotations_are_named(run: Run, tmp_path: Path) -> None:
    photos, labels = cityscapes_files()
    write_files(tmp_path, photos | {name: labels[name] for name in labels if "instanceIds" not in name})
    sentence(
        run("data", "prepare", "cityscapes", tmp_path, tmp_path / "out"), "instance maps", "gtFine_trainvaltest.zip"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../a.png", "/a.png", "images/../../a.png", "..\\a.png", "C:/a.png"])
@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_paths_that_leave_the_archive_are_refused(run: Run, tmp_path: Path, name: str, write) -> None:
    archive = tmp_path / ("source/bad.zip" if write is write_zip else "source/bad.tar.gz")
    write(archive, {**ade20k_files(), name: photo()})
    sentence(run("data", "prepare", "ade20k", tmp_path / "source", tmp_path / "out"), archive, "outside of the archive")
    assert not (tmp_path / "out").exists()


def test_links_in_tars_are_passed_over(run: Run, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(sketch_pair())
    write_tar(tmp_path / "source/edges2shoes.tar", {"edges2shoes/val/2_AB.jpg": sketch_pair()})
    with tarfile.open(tmp_path / "source/links.tar", "w") as archive:
        link = tarfile.TarInfo("edges2shoes/train/1_AB.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(link)
    sentence(
        run("data", "prepare", "edges2shoes", tmp_path / "source", tmp_path / "out"), "no images edges2shoes/train"
    )


def test_damaged_archives_are_named(run: Run, tmp_path: Path) -> None:
    for name, content in (("a.zip", b"PK not"), ("b.tar.gz", b"not"), ("c.txt", b"")):
        (tmp_path / name).write_bytes(content)
        words = ("not an archive",) if name == "c.txt" else ("cannot read", "download it again")
        sentence(run("data", "prepare", "ade20k", tmp_path / name, tmp_path / "out"), tmp_path / name, *words)
    write_tar(tmp_path / "d.tar.gz", {f"edges2shoes/train/{i}.jpg": photo(i) for i in range(40)})
    whole = (tmp_path / "d.tar.gz").read_bytes()
    (tmp_path / "d.tar.gz").write_bytes(whole[: len(whole) // 2])
    sentence(run("data", "prepare", "edges2shoes", tmp_path / "d.tar.gz", tmp_path / "out"), "d.tar.gz", "download")
    sentence(run("data", "prepare", "ade20k", tmp_path / "none", tmp_path / "out"), "no file or folder")


def test_a_damaged_member_is_named_and_what_was_written_stays(run: Run, tmp_path: Path) -> None:
    write_zip(tmp_path / "ade.zip", ade20k_files())
    content = bytearray((tmp_path / "ade.zip").read_bytes())
    with zipfile.ZipFile(tmp_path / "ade.zip") as archive:
        last = archive.infolist()[-1]
    content[last.header_offset + 30 + len(last.filename) + 20] ^= 255
    (tmp_path / "ade.zip").write_bytes(content)
    sentence(
        run("data", "prepare", "ade20k", tmp_path / "ade.zip", tmp_path / "out"), last.filename, "download it again"
    )
    assert len([path for path in (tmp_path / "out").rglob("*") if path.is_file()]) == 3


def test_a_damaged_image_is_named(run: Run, tmp_path: Path) -> None:
    write_coco(tmp_path / "source")
    maps = {f"{split}2017/{number:012d}.png": b"none" for split, number in (("train", 9), ("val", 139))}
    write_zip(tmp_path / "source/stuffthingmaps_trainval2017.zip", maps)
    sentence(run("data", "prepare", "coco-stuff", tmp_path / "source", tmp_path / "out"), "train2017/000000000009.png")


def test_instances_of_another_kind_are_named(run: Run, tmp_path: Path) -> None:
    write_coco(tmp_path / "source")
    write_zip(
        tmp_path / "source/annotations_trainval2017.zip", {f"instances_{s}2017.json": b"[]" for s in ("train", "val")}
    )
    with pytest.raises(DataError, match=r"instances_train2017\.json is not a file of instances"):
        prepare_set(PUBLISHED_SETS["coco-stuff"], tmp_path / "source", tmp_path / "out")
