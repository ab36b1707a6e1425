"""Evaluation on the command line: scores, partial results, and errors with exit code 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab2pix.evaluation.pairing import list_sha256
from tests.helpers.commands import Run, sentence
from tests.helpers.images import SPACE, ColorReader, Folders, Means, export, write_set

NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of exported programs: `means.pt2`, features; `colors.pt2`, a segmenter."""
    folder = tmp_path_factory.mktemp("programs")
    export(Means(), folder / "means.pt2", {"size": [32, 48]})
    export(ColorReader(), folder / "colors.pt2", {"size": [32, 48], "classes": list(SPACE.names)})
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return write_set(tmp_path / "set", NAMES)


@pytest.fixture
def judge(run: Run, folders: Folders, programs: Path, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Judges the folders through quick features; options that are given anew count."""

    def call(*words: object) -> tuple[int, str, str]:
        usual = {
            **{"--generated": folders.generated, "--real": folders.real, "--features": programs / "means.pt2"},
            **{"--out": tmp_path / "report.json", "--device": "cpu"},
        }
        kept = [part for option, value in usual.items() if option not in words for part in (option, value)]
        return run("evaluate", *kept, *words)

    return call


def report(file: Path) -> dict[str, object]:
    return json.loads(file.read_text())


# --- what cannot be judged ---------------------------------------------------------------------------------------


def test_evaluate_refuses_an_empty_folder(judge: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    sentence(judge("--generated", tmp_path / "empty"), tmp_path / "empty", "has no images")
    sentence(judge("--real", tmp_path / "empty"), tmp_path / "empty", "has no images")
    sentence(judge("--real", tmp_path / "none"), tmp_path / "none", "there is no folder")


def test_evaluate_names_files_without_partner(judge: Run, folders: Folders, tmp_path: Path) -> None:
    (folders.real / "a.png").unlink()
    (folders.generated / "d.png").rename(folders.generated / "other.png")
    sentence(judge(), "'a' is not in", folders.real, "and 2 more: d, other", "--allow-missing")
    assert not (tmp_path / "report.json").exists()
    code, output, _ = judge("--allow-missing")
    assert code == 0
    assert "3 without partner left out, such as a" in output
    found = report(tmp_path / "report.json")
    assert found["unmatched"] == ["a", "d", "other"]
    assert found["protocol"]["generated"]["count"] == 2
    assert found["protocol"]["allow_missing"] is True


def test_evaluate_refuses_folders_that_share_no_name(judge: Run, folders: Folders, tmp_path: Path) -> None:
    other = write_set(tmp_path / "other", ("x", "y"))
    sentence(judge("--real", other.real), "'a' is not in", "--unpaired")
    sentence(judge("--real", other.real, "--allow-missing"), "no name is in all of", folders.generated)


def test_evaluate_refuses_two_images_of_one_name(judge: Run, folders: Folders) -> None:
    (folders.generated / "a.jpg").write_bytes((folders.generated / "a.png").read_bytes())
    sentence(judge(), "a.jpg", "a.png", "have the same name")


def test_evaluate_refuses_a_single_image(judge: Run, folders: Folders) -> None:
    for folder in (folders.generated, folders.real):
        for name in NAMES[1:]:
            (folder / f"{name}.png").unlink()
    sentence(judge(), "Frechet distance between sets of 1 and 1 images is undefined", "at least two")


def test_evaluate_names_missing_samples(judge: Run, folders: Folders) -> None:
    sentence(judge("--samples", 2), "a.png is none of 2 samples (NAME_0 to NAME_1)")
    for name in NAMES:
        picture = folders.generated / f"{name}.png"
        (folders.generated / f"{name}_1.png").write_bytes(picture.read_bytes())
        picture.rename(folders.generated / f"{name}_0.png")
    (folders.generated / "b_1.png").unlink()
    sentence(judge("--samples", 2), "'b' has fewer than 2 samples")


def test_evaluate_refuses_statistics_that_do_not_fit(
    judge: Run, folders: Folders, programs: Path, tmp_path: Path
) -> None:
    stats = tmp_path / "real.safetensors"
    assert judge("--save-stats", stats)[0] == 0
    again = ("--out", tmp_path / "again.json")
    sentence(judge("--save-stats", stats, *again), stats, "is there already")
    words = ("--real", stats, *again)
    sentence(judge(*words, "--features", "efficientnet-lite0"), stats, "features means", "efficientnet_lite0")
    sentence(judge(*words, "--size", "16x16"), stats, "size [32, 48]", "[16, 16]")
    sentence(judge(*words, "--features", programs / "means.pt2", "--features", "efficientnet-lite0"), "one feature")
    stats.write_bytes(b"junk")
    sentence(judge(*words), stats, "cannot be read as statistics")
    sentence(judge("--real", tmp_path / "gone.safetensors", *again), "gone.safetensors")


def test_evaluate_names_a_truncated_image(judge: Run, folders: Folders, tmp_path: Path) -> None:
    names = tuple(f"many{number:04d}" for number in range(1000))
    many = Folders(tmp_path / "many" / "generated", tmp_path / "many" / "real", tmp_path / "many" / "labels")
    for folder in (many.generated, many.real):
        folder.mkdir(parents=True)
        for number, name in enumerate(names):
            content = (getattr(folders, folder.name) / f"{NAMES[number % 4]}.png").read_bytes()
            (folder / f"{name}.png").write_bytes(content)
    broken = many.real / "many0777.png"
    broken.write_bytes(broken.read_bytes()[:300])
    words = ("--generated", many.generated, "--real", many.real)
    sentence(judge(*words), broken, "--skip-broken")
    code, output, errors = judge(*words, "--skip-broken")
    assert code == 0, errors
    assert f"left out: {broken}" in output
    found = report(tmp_path / "report.json")
    [left] = found["broken"]
    assert (left["file"], left["name"]) == (str(broken), "many0777")
    assert found["protocol"]["skip_broken"] is True
    assert found["protocol"]["generated"]["count"] == found["scores"]["ssim"]["count"] == 999


def test_evaluate_refuses_only_broken_images(judge: Run, folders: Folders) -> None:
    for name in NAMES:
        (folders.generated / f"{name}.png").write_bytes(b"junk")
    sentence(judge("--skip-broken"), "no image in", folders.generated, "could be read")


def test_label_maps_and_segmenters_that_do_not_fit(judge: Run, folders: Folders, programs: Path) -> None:
    truth = ("--labels", folders.labels, "--label-space", "scenes")
    reader = ("--segmenter", programs / "colors.pt2")
    sentence(judge("--labels", folders.labels), "--labels and --label-space belong together")
    sentence(judge(*truth), "add --segmenter")
    sentence(judge(*reader), "add --labels and --label-space")
    sentence(judge("--labels", folders.labels, "--label-space", "facades", *reader), "has no class", "facades")
    sentence(judge("--labels", folders.labels, "--label-space", "senes", *reader), "scenes")
    Image.fromarray(np.full((32, 48), 77, dtype=np.uint8)).save(folders.labels / "b.png")
    sentence(judge(*truth, *reader), "b.png", "77", "--skip-broken")


def test_evaluate_refuses_wrong_options(judge: Run, run: Run, folders: Folders, tmp_path: Path) -> None:
    sentence(judge("--features", "inceptoin"), "did you mean 'inception'")
    sentence(judge("--lpips", "alexa"), "did you mean 'alex'")
    sentence(judge("--size", "16"), "height x width")
    sentence(judge("--out", tmp_path / "report.txt"), "does not end in .json")
    sentence(judge("--count", 4), "--count belongs to a run")
    alone = ("--generated", folders.generated, "--out", tmp_path / "report.json")
    sentence(run("evaluate", *alone), "nothing to compare", "--real")
    sentence(run("evaluate", "--out", tmp_path / "report.json"), "either a run or weights, or a folder")
    assert judge()[0] == 0
    sentence(judge(), "report.json is there already", "--overwrite")
    assert judge("--overwrite")[0] == 0


def test_inception_offline_says_which_file_to_give(judge: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    file = "weights-inception-2015-12-05-6726825d.pth"
    sentence(judge("--features", "inception"), file, "could not be downloaded", "--inception-weights=FILE")
    sentence(judge("--features", "inception", "--inception-weights", tmp_path / "x.pth"), "x.pth", "not a file", file)
    (tmp_path / "x.pth").write_bytes(b"junk")
    sentence(judge("--features", "inception", "--inception-weights", tmp_path / "x.pth"), "SHA-256", "6726825d")


# --- runs --------------------------------------------------------------------------------------------------------


def test_a_run_is_judged_on_what_it_holds_out(run: Run, run_folder: Path, programs: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    truth = ("--segmenter", programs / "colors.pt2", "--features", programs / "means.pt2")
    words = ("evaluate", run_folder, "--out", out, "--device", "cpu", *truth, "--samples", 3)
    code, output, errors = run(*words)
    assert code == 0, errors
    found = report(out)
    names = {"ppa", "pca", "ciou", "frechet_means", "kernel_means", "psnr", "ssim", "diversity_pixels", "checkerboard"}
    assert set(found["scores"]) == names
    assert "frechet_means" in output
    assert found["scores"]["ppa"]["count"] == len(found["scores"]["ppa"]["values"]) == 3
    assert found["scores"]["psnr"]["count"] == 6
    assert found["scores"]["diversity_pixels"]["count"] == 2
    protocol = found["protocol"]
    assert {key: protocol["generated"][key] for key in ("run", "step", "count", "seed")} == {
        **{"run": str(run_folder), "step": 2, "count": 2, "seed": 0},
    }
    [hashed] = {protocol[side]["list_sha256"] for side in ("generated", "real", "labels")}
    names = [item["name"] for item in found["pictures"]["best"]]
    assert hashed == list_sha256(names)
    assert protocol["real"]["count"] == protocol["labels"]["count"] == 2
    assert protocol["labels"]["label_space"] == "scenes"
    assert protocol["paired"] is True
    page = (tmp_path / "run.html").read_text()
    assert "data:image/" in page
    assert len(list((tmp_path / "run-pictures").glob("*-generated.png"))) == 2
    sentence(run(*words), "is there already")
    assert run(*words, "--overwrite")[0] == 0
    again = report(out)
    assert again["scores"] == found["scores"]


def test_a_run_and_its_generated_pictures_get_the_same_scores(
    run: Run, run_folder: Path, programs: Path, tmp_path: Path
) -> None:
    """The pictures of the report's sheet are those that were judged: PSNR and SSIM of the files are the report's."""
    out, features = tmp_path / "run.json", ("--features", programs / "means.pt2", "--device", "cpu")
    assert run("evaluate", run_folder, "--out", out, *features)[0] == 0
    for role in ("generated", "real"):
        for file in (tmp_path / "run-pictures").glob(f"*-{role}.png"):
            (tmp_path / role).mkdir(exist_ok=True)
            file.rename(tmp_path / role / f"{file.name.split('-')[0]}.png")
    files = ("--generated", tmp_path / "generated", "--real", tmp_path / "real")
    assert run("evaluate", *files, "--out", tmp_path / "files.json", *features)[0] == 0
    ours, theirs = report(out)["scores"], report(tmp_path / "files.json")["scores"]
    for name in ("psnr", "ssim", "frechet_means"):
        assert ours[name]["mean"] == pytest.approx(theirs[name]["mean"], rel=1e-4)


@pytest.mark.parametrize(
    "words",
    [
        ("--real", "x"),
        ("--labels", "x"),
        ("--label-space", "scenes"),
        ("--size", "8x8"),
        ("--save-stats", "x.safetensors"),
        ("--format", "cityscapes"),
        ("--unpaired",),
        ("--allow-missing",),
        ("--skip-broken",),
    ],
    ids=lambda words: words[0],
)
def test_evaluate_run_refuses_options_it_sets_itself(
    words: tuple[str, ...], run: Run, run_folder: Path, tmp_path: Path
) -> None:
    result = run("evaluate", run_folder, "--out", tmp_path / "run.json", "--device", "cpu", *words)
    sentence(result, f"{words[0]} belongs to --generated")


def test_options_that_do_nothing_for_a_run(run: Run, run_folder: Path, tmp_path: Path) -> None:
    words = ("evaluate", run_folder, "--out", tmp_path / "run.json", "--device", "cpu")
    sentence(run(*words, "--split", "nope"), "whose only held-out split is 'val'")
    sentence(run(*words, "--lpips-weights", tmp_path / "x.pth"), "add --lpips")


def test_evaluate_refuses_a_folder_that_is_no_run(run: Run, tmp_path: Path) -> None:
    sentence(run("evaluate", tmp_path, "--out", tmp_path / "run.json", "--device", "cpu"), tmp_path)


# --- comparing ---------------------------------------------------------------------------------------------------


def test_compare_writes_a_table_of_reports(run: Run, judge: Run, folders: Folders, tmp_path: Path) -> None:
    reports = []
    for number, name in enumerate(("ours", "ours", "photos")):
        reports.append(tmp_path / f"{number}.json")
        sides = ("--generated", folders.real) if name == "photos" else ()
        assert judge("--name", name, "--seed", number, "--out", reports[-1], *sides)[0] == 0
    code, output, errors = run("compare", *reports, "--out", tmp_path / "compare")
    assert code == 0, errors
    [head, _, ours, photos] = output.splitlines()[:4]
    assert head == "| method | reports | frechet_means ↓ | kernel_means ↓ | psnr ↑ | ssim ↑ | checkerboard ↑ |"
    assert ours.startswith("| ours | 2 |")
    assert photos.startswith("| photos | 1 | **0")
    assert "± 0.0" in ours
    assert {file.name for file in (tmp_path / "compare").iterdir()} == {"compare.md", "compare.html", "compare.png"}
    assert (tmp_path / "compare" / "compare.md").read_text() in f"{output}\n"
    sentence(run("compare", *reports, "--out", tmp_path / "compare"), "is there already")
    assert run("compare", *reports, "--out", tmp_path / "compare", "--overwrite")[0] == 0


def test_compare_refuses_reports_of_other_protocols(run: Run, judge: Run, tmp_path: Path) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    assert judge("--out", one)[0] == 0
    assert judge("--out", other, "--size", "16x16")[0] == 0
    sentence(run("compare", one, other), "'size' is [32, 48]", "[16, 16]", other, "--allow-different")
    code, output, _ = run("compare", one, other, "--allow-different")
    assert code == 0
    assert "Different: 'size'" in output
    other.write_text("{}")
    sentence(run("compare", one, other), other, "is not a report")
    sentence(run("compare", one, tmp_path / "gone.json"), "gone.json", "cannot be read as a report")
