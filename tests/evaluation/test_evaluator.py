"""Evaluation of image folders against scores of other packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import lab2pix
from lab2pix.data.pairs import Pair, PairStorage
from lab2pix.evaluation import loading
from lab2pix.evaluation.features import load_features
from lab2pix.evaluation.loading import ReadingLog, read_items
from lab2pix.evaluation.pairing import Item
from lab2pix.labels.space import LabelSpace
from tests.helpers.commands import Run
from tests.helpers.images import NAMES, SPACE, Folders, write, write_set


def pixels(folder: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(folder / f"{name}.png"))


def scores(report: Path) -> dict[str, Any]:
    return json.loads(report.read_text())["scores"]


def nearest_classes(picture: np.ndarray) -> np.ndarray:
    colors = SPACE.to_colors(torch.arange(SPACE.num_classes).view(1, -1))[:, 0].T.numpy().astype(float)
    return np.square(picture[..., None, :] - colors).sum(-1).argmin(-1)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(s @ t)
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(s) + np.trace(t) - 2 * np.trace(root).real)


@pytest.mark.slow
def test_scores_are_those_that_others_compute_of_the_same_files(
    evaluate: Run, folders: Folders, reader: Path, tmp_path: Path
) -> None:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    from sklearn.metrics import accuracy_score, jaccard_score, recall_score

    words = ("--labels", folders.labels, "--label-space", "scenes", "--segmenter", reader)
    code, output, errors = evaluate(*words, "--features", "efficientnet-lite0")
    assert code == 0, errors
    found = scores(tmp_path / "report.json")
    assert list(found) == [
        *("ppa", "pca", "ciou", "frechet_efficientnet_lite0", "kernel_efficientnet_lite0"),
        *("psnr", "ssim", "checkerboard"),
    ]
    assert all({"mean", "std", "count", "over", "better", "values"} <= score.keys() for score in found.values())
    labels = np.concatenate([pixels(folders.labels, name).ravel() for name in NAMES])
    read = np.concatenate([nearest_classes(pixels(folders.generated, name)).ravel() for name in NAMES])
    there, seen = np.unique(labels), np.union1d(labels, read)
    assert found["ppa"]["mean"] == pytest.approx(accuracy_score(labels, read))
    assert found["pca"]["mean"] == pytest.approx(recall_score(labels, read, labels=there, average="macro"))
    assert found["ciou"]["mean"] == pytest.approx(jaccard_score(labels, read, labels=seen, average="macro"))
    assert 0.8 < found["ppa"]["mean"] < 1
    pairs = [(pixels(folders.real, name), pixels(folders.generated, name)) for name in NAMES]
    psnr = [peak_signal_noise_ratio(*pair) for pair in pairs]
    how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    ssim = [structural_similarity(*pair, channel_axis=2, data_range=255, **how) for pair in pairs]
    for name, values in (("psnr", psnr), ("ssim", ssim)):
        assert found[name]["mean"] == pytest.approx(np.mean(values), abs=1e-3)
        assert found[name]["std"] == pytest.approx(np.std(values, ddof=1), abs=1e-3)
        assert (found[name]["count"], found[name]["over"]) == (5, "images")
    network = load_features("efficientnet-lite0")
    features = [
        np.concatenate([network(torch.tensor(pair[side]).permute(2, 0, 1)[None]).numpy() for pair in pairs])
        for side in (0, 1)
    ]
    assert found["frechet_efficientnet_lite0"]["mean"] == pytest.approx(frechet(*features), rel=1e-3)
    assert "frechet_efficientnet_lite0" in output
    assert "few for 320 features" in output


@pytest.mark.slow
def test_python_gives_what_the_command_gives(
    evaluate: Run, folders: Folders, reader: Path, means: Path, tmp_path: Path
) -> None:
    words = ("--labels", folders.labels, "--label-space", "scenes", "--segmenter", reader)
    assert evaluate(*words)[0] == 0
    protocol = lab2pix.Protocol(segmenter=reader, features=[str(means)])
    report = lab2pix.evaluate_folders(
        folders.generated, folders.real, protocol, labels=folders.labels, label_space="scenes", device="cpu"
    )
    ours = json.loads((tmp_path / "report.json").read_text())
    theirs = json.loads(json.dumps(report.to_dict()))
    for part in (ours, theirs):
        part["protocol"].pop("created")
    assert ours == theirs


@pytest.mark.slow
def test_the_report_says_how_its_scores_came_about(
    evaluate: Run, folders: Folders, reader: Path, tmp_path: Path
) -> None:
    large = write_set(tmp_path / "large", size=(64, 96))
    words = ("--labels", large.labels, "--label-space", "scenes", "--segmenter", reader, "--seed", 7)
    assert evaluate(*words, real=large.real)[0] == 0
    report = json.loads((tmp_path / "report.json").read_text())
    protocol = report["protocol"]
    assert protocol["size"] == [32, 48]
    assert protocol["sizes"] == {"32x48": 5}
    assert protocol["resized"] == {"generated": 0, "real": 5, "labels": 5}
    assert "bicubic" in protocol["resize"]
    assert protocol["seed"] == 7
    assert protocol["generated"]["count"] == protocol["real"]["count"] == 5
    assert protocol["generated"]["list_sha256"] == protocol["real"]["list_sha256"]
    assert len(protocol["generated"]["list_sha256"]) == 64
    assert torch.__version__.startswith(protocol["versions"]["torch"])
    assert protocol["features"]["means"]["dimension"] == 18
    assert protocol["segmenter"]["classes"] == list(range(SPACE.num_classes))
    assert report["left_out"] == [row["name"] for row in report["classes"] if row["iou"] is None] != []
    assert protocol["classes_without_pixels"] == "not in the means"
    assert [len(report["pictures"][key]) for key in ("best", "median", "worst")] == [4, 4, 4]
    best = [item["score"] for item in report["pictures"]["best"]]
    assert best == sorted(best, reverse=True)
    assert report["pictures"]["worst"][0]["score"] <= best[-1]


def test_all_pictures_are_brought_to_a_size_that_was_asked_for(evaluate: Run, tmp_path: Path) -> None:
    assert evaluate("--size", "20x16")[0] == 0
    protocol = json.loads((tmp_path / "report.json").read_text())["protocol"]
    assert (protocol["size"], protocol["resized"]) == ([20, 16], {"generated": 5, "real": 5, "labels": 0})


@pytest.mark.slow
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch_size=st.integers(1, 6))
def test_evaluation_does_not_depend_on_the_batch_size(folders: Folders, reader: Path, batch_size: int) -> None:
    def judged(size: int) -> dict[str, float]:
        protocol = lab2pix.Protocol(segmenter=reader, batch_size=size)
        report = lab2pix.evaluate_folders(
            folders.generated, folders.real, protocol, labels=folders.labels, label_space="scenes", device="cpu"
        )
        return {name: score.mean for name, score in report.scores.items()}

    assert judged(batch_size) == pytest.approx(judged(5), rel=1e-3, abs=1e-5)


def several_samples(folders: Folders) -> Path:
    """Write three samples of each picture, the first as it was and the others brighter, beside the folder."""
    out = folders.generated.with_name("samples")
    for name in NAMES:
        picture = pixels(folders.generated, name).astype(int)
        for number in range(3):
            write(out / f"{name}_{number}.png", (picture + 10 * number).clip(0, 255).astype(np.uint8))
    return out


@pytest.mark.slow
def test_scores_of_several_samples_are_means_over_sample_sets(evaluate: Run, folders: Folders, tmp_path: Path) -> None:
    assert evaluate(generated=several_samples(folders))[0] == 0
    together = scores(tmp_path / "report.json")
    alone = []
    for number in range(3):
        for name in NAMES:
            picture = pixels(folders.generated.with_name("samples"), f"{name}_{number}")
            write(tmp_path / f"only{number}" / f"{name}.png", picture)
        out = tmp_path / f"{number}.json"
        assert evaluate("--out", out, generated=tmp_path / f"only{number}")[0] == 0
        alone.append(scores(out))
    for name in ("frechet_means", "kernel_means", "psnr", "ssim"):
        values = [report[name]["mean"] for report in alone]
        assert together[name]["values"] == pytest.approx(values)
        assert together[name]["mean"] == pytest.approx(np.mean(values))
    assert together["frechet_means"]["std"] == pytest.approx(
        np.std([report["frechet_means"]["mean"] for report in alone], ddof=1)
    )
    assert together["psnr"]["count"] == 15
    # The first and the last sample are 20 levels apart, neighbours 10, where nothing is cut off at 255.
    assert together["diversity_pixels"]["count"] == 5
    assert 10 < together["diversity_pixels"]["mean"] <= 40 / 3
    assert "diversity_pixels" not in alone[0]


@pytest.mark.slow
def test_statistics_stand_for_the_photos_they_were_taken_of(evaluate: Run, run: Run, tmp_path: Path) -> None:
    stats, out = tmp_path / "real.safetensors", tmp_path / "other.json"
    assert evaluate("--save-stats", stats)[0] == 0
    code, _, errors = evaluate("--out", out, real=stats)
    assert code == 0, errors
    first, second = scores(tmp_path / "report.json"), scores(out)
    assert first["frechet_means"] == second["frechet_means"]
    assert first["kernel_means"] == second["kernel_means"]
    assert "psnr" not in second
    both = [json.loads(file.read_text())["protocol"]["real"] for file in (tmp_path / "report.json", out)]
    assert both[0]["list_sha256"] == both[1]["list_sha256"]
    assert run("compare", tmp_path / "report.json", out)[0] == 0


def test_evaluation_pairs_photos_of_other_names(evaluate: Run, folders: Folders, tmp_path: Path) -> None:
    other = write_set(tmp_path / "other", ("x", "y", "z", "w"), size=(64, 96))
    assert evaluate("--unpaired", real=other.real)[0] == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["scores"]) == ["frechet_means", "kernel_means", "checkerboard"]
    assert report["protocol"]["real"]["count"] == 4
    assert report["protocol"]["resized"]["real"] == 4


def processes(count: int, out: Path, *words: object) -> dict[str, Any]:
    """Judge under torchrun, and return the report."""
    start = ("torch.distributed.run", f"--nproc-per-node={count}", "--standalone", "--module", "lab2pix")
    command = [sys.executable, "-m", *start, "evaluate", *map(str, words), "--out", str(out), "--device", "cpu"]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(out)) == 1  # process 0 alone speaks
    return json.loads(out.read_text())


@pytest.mark.xslow
def test_evaluation_by_two_processes_equals_one(folders: Folders, reader: Path, means: Path, tmp_path: Path) -> None:
    truth = ("--labels", folders.labels, "--label-space", "scenes", "--segmenter", reader, "--samples", 3)
    words = ("--generated", several_samples(folders), "--real", folders.real, "--features", means, *truth)
    both = processes(2, tmp_path / "two.json", *words)
    alone = lab2pix.evaluate_folders(
        folders.generated.with_name("samples"), folders.real,
        lab2pix.Protocol(segmenter=reader, features=[str(means)]), labels=folders.labels, label_space="scenes",
        samples=3, device="cpu",
    ).to_dict()  # fmt: skip
    assert both["protocol"]["processes"] == 2
    for name, score in alone["scores"].items():
        assert both["scores"][name]["values"] == pytest.approx(score["values"], rel=1e-5)
        assert both["scores"][name]["count"] == score["count"]
    for key in ("classes", "left_out"):
        assert both[key] == alone[key]
    assert [item["name"] for item in both["pictures"]["best"]] == [item["name"] for item in alone["pictures"]["best"]]
    assert both["protocol"]["generated"] == alone["protocol"]["generated"]


@pytest.mark.xslow
def test_two_processes_agree_on_the_size_of_photos_of_their_own_names(
    folders: Folders, means: Path, tmp_path: Path
) -> None:
    # Process 0 gets the first and third picture, process 1 the second and fourth: each would see one size only.
    mixed = tmp_path / "mixed"
    for number, name in enumerate("abde"):
        picture = Image.fromarray(pixels(folders.generated, name))
        write(mixed / f"{name}.png", np.asarray(picture.resize((96, 64) if number % 2 else (48, 32))))
    other = write_set(tmp_path / "other", ("x", "y", "z", "w", "v"), size=(16, 24))
    both = processes(
        2, tmp_path / "two.json", "--generated", mixed, "--real", other.real, "--unpaired", "--features", means
    )
    assert both["protocol"]["size"] == "various"
    assert both["protocol"]["resized"]["real"] == 0


def test_evaluation_reads_only_a_few_files_ahead(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    item = Item("a", (folders.generated / "a.png",))
    opened = 0

    def counted(path: Path, *_: object) -> torch.Tensor:
        nonlocal opened
        opened += 1
        return torch.zeros(3, 16, 16, dtype=torch.uint8)

    monkeypatch.setattr(loading, "_read_image", counted)
    seen = 0
    log = ReadingLog()
    for loaded in read_items([item] * 500, None, log, size=None, batch_size=8, skip_broken=False):
        seen += len(loaded.names)
        assert opened <= seen + 2 * 8
    assert (seen, opened, log.sizes) == (500, 500, {(16, 16): 500})


@pytest.mark.slow
def test_transparent_images_are_scored_on_the_background_that_is_asked_for(
    evaluate: Run, folders: Folders, tmp_path: Path
) -> None:
    """Photos are white, images black under full transparency: equal on white, as a viewer shows them."""
    for file in folders.generated.rglob("*.png"):
        size = Image.open(file).size
        Image.new("RGBA", size, (0, 0, 0, 0)).save(file)
        Image.new("RGB", size, "white").save(folders.real / file.relative_to(folders.generated))
    assert evaluate("--alpha", "white")[0] == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert not [note for note in report["notes"] if "transparent" in note]
    assert report["protocol"]["alpha"] == "white" and report["scores"]["ssim"]["mean"] == pytest.approx(1)
    assert evaluate("--overwrite")[0] == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["protocol"]["alpha"] == "drop" and report["scores"]["ssim"]["mean"] < 0.1
    [note] = [note for note in report["notes"] if "transparent" in note]
    assert note.startswith("generated images with transparent pixels: ") and "unless --alpha is white" in note


@pytest.mark.slow
def test_transparent_label_maps_are_noted(evaluate: Run, folders: Folders, reader: Path) -> None:
    file = sorted(folders.labels.rglob("*.png"))[1]
    image = Image.open(file).convert("RGBA")
    image.putpixel((0, 0), (*image.getpixel((0, 0))[:3], 0))
    image.save(file)
    code, output, errors = evaluate("--labels", folders.labels, "--label-space", "scenes", "--segmenter", reader)
    assert code == 0, errors
    assert f"label maps with transparent pixels: 1, such as {file}; transparency is ignored there" in output


@pytest.mark.parametrize(("form", "roles"), [("photo-left", ["photos"]), ("input-left", ["label maps"])])
def test_transparent_halves_are_noted_by_what_they_are(form: PairStorage, roles: list[str], tmp_path: Path) -> None:
    both = Image.new("RGBA", (32, 16), (0, 0, 0, 255))
    both.paste((0, 0, 0, 0), (0, 0, 16, 16))
    both.save(tmp_path / "ab.png")
    Image.new("RGB", (16, 16)).save(tmp_path / "image.png")
    pair = Pair("ab", tmp_path / "ab.png", tmp_path / "ab.png", form=form)
    tones = [{"name": "night", "color": [0, 0, 0]}, {"name": "day", "color": [255, 255, 255]}]
    space = LabelSpace.from_dict({"name": "tones", "classes": tones})
    log, item = ReadingLog(), Item("ab", (tmp_path / "image.png",), pair, pair)
    list(read_items([item], space, log, size=None, batch_size=1, skip_broken=False))
    assert list(log.transparent) == roles


def test_precision_and_recall_are_scored_where_asked_for(evaluate: Run, tmp_path: Path) -> None:
    assert evaluate("--precision-recall")[0] == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert {"precision_means", "recall_means"} <= set(report["scores"])
    assert report["scores"]["recall_means"]["better"] == "higher"
    assert report["protocol"]["precision_recall"] == {"neighbors": 3}
