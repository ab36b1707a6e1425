"""The package of the model of landscape photographs: how it is found, used and made; its weights, if they are there."""

from __future__ import annotations

import io
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lab2pix import LabelSpace, Synthesizer
from lab2pix.errors import CheckpointError, ConfigError, OutputError
from lab2pix.evaluation import segmenters
from lab2pix.evaluation.segmenters import HEAD, SEGMENTER_FILE, SEGMENTER_FORMAT, build_network, load_segmenter
from lab2pix.inference import weights
from lab2pix.utils import registry
from lab2pix.utils.tensors import save_tensors
from lab2pix.web.painter.app import create_app, find_model
from lab2pix.web.painter.examples import find_examples
from lab2pix.web.painter.service import PainterService
from lab2pix.web.security import HostChecker
from tests.helpers.commands import Run, sentence
from tests.helpers.generators import tiny_synthesizer
from tools import pack_model

PACKAGE = Path(__file__).resolve().parents[2] / "models" / "landscapes"
MODULE = PACKAGE / "src" / "lab2pix_landscapes"
SPACE = LabelSpace.load("landscapes")
SKY, WATER = SPACE.names.index("sky"), SPACE.names.index("water")

pytestmark = pytest.mark.skipif(not PACKAGE.exists(), reason="this copy was made without the package of the model")


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmentation head that sees nothing but sky."""
    folder = tmp_path_factory.mktemp("segmenter")
    torch.manual_seed(0)
    network = build_network(HEAD, "efficientnet-lite0", SPACE.num_classes)
    with torch.no_grad():
        network.head.classifier.weight.zero_()
        network.head.classifier.bias.copy_(torch.eye(SPACE.num_classes)[SKY])
    save_tensors(network.state_dict(), folder / "model.safetensors")
    about = {"format": SEGMENTER_FORMAT, "architecture": HEAD, "encoder": "efficientnet-lite0", "size": [64, 64]}
    (folder / SEGMENTER_FILE).write_text(json.dumps({**about, "label_space": SPACE.to_dict()}))
    return folder


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segmenter: Path) -> Path:
    """The package with a tiny model, as `pip install` leaves it: its module, and its entry point in the metadata."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    [(name, module)] = project["entry-points"]["lab2pix.models"].items()
    site, run = tmp_path / "site", tmp_path / "run"
    info, folder = site / "lab2pix_landscapes-0.1.0.dist-info", site / module
    info.mkdir(parents=True)
    folder.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[lab2pix.models]\n{name} = {module}\n")
    (folder / "__init__.py").write_text((MODULE / "__init__.py").read_text())
    model = tiny_synthesizer("landscapes", data={"root": "/home/someone/landscapes"})
    pack_model.pack(model.save(run), segmenter, folder)
    monkeypatch.syspath_prepend(site)
    return folder


def photo(size: tuple[int, int] = (48, 96)) -> bytes:
    out, random = io.BytesIO(), np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(out, format="JPEG", quality=95)
    return out.getvalue()


def test_packed_weights_are_halved_and_tell_no_path(installed: Path, segmenter: Path) -> None:
    for folder in (installed, installed / "segmenter"):
        tensors = load_file(folder / "model.safetensors").values()
        assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.float16}
    stored = json.loads((installed / "config.json").read_text())
    assert stored["config"]["data"]["root"] == "landscapes"
    assert stored["label_space"]["classes"][SPACE.names.index("road")]["title"] == "road or path"
    own, packed = load_segmenter(segmenter, SPACE).network, load_segmenter("landscapes", SPACE).network
    for one, two in zip(own.parameters(), packed.parameters(), strict=True):
        torch.testing.assert_close(one, two, atol=1e-3, rtol=1e-3)


def test_too_large_a_model_is_not_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_model, "MOST_BYTES", 1000)
    with pytest.raises(OutputError, match="train a narrower one"):
        pack_model.pack(tiny_synthesizer("landscapes").save(tmp_path / "run"), None, tmp_path / "out")


def test_an_installed_model_is_found_by_name(installed: Path, run: Run) -> None:
    assert find_model(None) == installed
    assert Synthesizer("landscapes", device="cpu").label_space.names == SPACE.names
    code, printed, _ = run("presets")
    assert code == 0
    assert str(installed) in printed.replace("\n", "")


def test_a_model_that_is_not_installed_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    for module in (weights, segmenters, registry):
        monkeypatch.setattr(module, "model_folders", dict)
    monkeypatch.chdir(tmp_path)
    assert find_model(None) == weights.shipped_models()["scenes"].parent
    with pytest.raises(CheckpointError, match=r"run `pip install \./models/landscapes` in a clone"):
        Synthesizer("landscapes")
    with pytest.raises(ConfigError, match=r"run `pip install \./models/landscapes` in a clone"):
        load_segmenter("landscapes", SPACE)
    sentence(run("label", tmp_path, "--out", tmp_path / "set"), "choose what labels the photos")
    assert "not installed; in a clone, run `pip install ./models/landscapes`" in run("presets")[1]


def test_photos_are_labeled_by_the_installed_segmenter(installed: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(photo())
    code, _, errors = run(
        "label", tmp_path / "photos", "--out", tmp_path / "set", "--threshold", "0", "--device", "cpu"
    )
    assert code == 0, errors
    [label] = (tmp_path / "set" / "labels").rglob("*.png")
    assert np.asarray(Image.open(label)).tolist() == [[SKY] * 96] * 48
    told = json.loads((tmp_path / "set" / "labeling.json").read_text())
    assert told["segmenter"]["architecture"] == HEAD


def test_a_photo_becomes_a_layout_in_the_painter(installed: Path) -> None:
    testclient = pytest.importorskip("starlette.testclient", reason="the extra 'web' is not installed")
    app = create_app(PainterService(Synthesizer("landscapes", device="cpu")), HostChecker("127.0.0.1"))
    with testclient.TestClient(app, base_url="http://127.0.0.1") as client:
        model = client.get("/api/model").json()
        assert model["photo"] is True
        assert [item["title"] for item in model["classes"]][:3] == ["anything else", "sky", "trees"]
        answer = client.post("/api/labels?output_format=ids", content=photo(), headers={"content-type": "image/jpeg"})
        assert answer.status_code == 200, answer.text
        ids = np.asarray(Image.open(io.BytesIO(answer.content)))
        assert ids.tolist() == [[SKY] * 64] * 64


def test_the_painter_offers_twelve_drawn_layouts() -> None:
    examples = find_examples(tiny_synthesizer("landscapes"))
    assert len(examples) == 12
    assert examples[0].name == "Lake with mountains"
    assert WATER in examples[0].ids
    for example in examples:
        assert example.ids.shape == (64, 64)
        assert 3 <= len(example.ids.unique()) <= SPACE.num_classes


# --- the weights in the repository --------------------------------------------------------------------------------

packed = pytest.mark.skipif(not (MODULE / "model.safetensors").exists(), reason="this copy was made without weights")


@packed
def test_the_weights_are_small_and_tell_no_path() -> None:
    assert sum(file.stat().st_size for file in MODULE.rglob("*.safetensors")) <= pack_model.MOST_BYTES
    stored = json.loads((MODULE / "config.json").read_text())
    assert pack_model.without_paths(stored) == stored


@packed
def test_the_weights_draw_and_the_segmenter_reads() -> None:
    model = Synthesizer(MODULE, device="cpu")
    ids = find_examples(model)[0].ids
    one, two = (model(ids, seed=seed).tensor.float() for seed in (0, 1))
    assert one.std() > 10  # not one color
    assert (one - two).abs().mean() > 1  # noise shows
    assert load_segmenter(MODULE / "segmenter", SPACE).info["held_out"]["ppa"] > 0.6


def test_installed_package_without_weights_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    for module in (weights, segmenters, registry):
        monkeypatch.setattr(module, "model_folders", lambda: {"landscapes": [tmp_path]})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"landscapes is installed, but holds no model\.safetensors"):
        weights.find("landscapes")
    with pytest.raises(ConfigError, match=r"landscapes is installed, but holds no segmenter\.json"):
        load_segmenter("landscapes", SPACE)
    assert "installed without weights" in run("presets")[1]
