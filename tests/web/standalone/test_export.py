"""The folder of a standalone page, without ONNX Runtime Web, and what is refused."""

from __future__ import annotations

import json
import re
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lab2pix.batch import Batch
from lab2pix.data.transforms import float_to_uint8
from lab2pix.errors import ConfigError, DataError, OutputError
from lab2pix.inference import Synthesizer
from lab2pix.inference.export import Exported
from lab2pix.web.standalone import StandalonePage, export_page
from lab2pix.web.standalone import export as module
from tests.helpers.commands import Run, sentence

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
WASM = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
WEBGPU = ("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm")


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """A folder with the names of ONNX Runtime Web's files, as the npm package has them."""
    folder = tmp_path / "package" / "dist"
    folder.mkdir(parents=True)
    for name in (*WASM, *WEBGPU):
        (folder / name).write_text(f"// {name}")
    return folder.parent


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write no program, which takes seconds."""

    def write(synthesizer: Synthesizer, out: Path, **_: Any) -> Exported:
        out.parent.mkdir()
        out.write_bytes(b"program")
        out.with_suffix(".json").write_text("{}")
        return Exported(out, out.with_suffix(".json"), 0.001)

    monkeypatch.setattr(module, "export", write)


@pytest.fixture
def page(synthesizer: Synthesizer, runtime: Path, tmp_path: Path, fast: None) -> StandalonePage:
    """The page of the tiny model."""
    return export_page(synthesizer, tmp_path / "page", runtime)


def test_every_file_that_the_page_names_is_in_the_folder(page: StandalonePage) -> None:
    html = (page.folder / "index.html").read_text()
    named = re.findall(r'(?:src|href)="((?!data:|#)[^"]+)"', html)
    assert "manifest.json" in named and "static/main.js" in named
    assert not [name for name in named if name.startswith("/") or not (page.folder / name).is_file()]
    imports = {
        (file.parent / name).resolve()
        for file in (page.folder / "static").glob("*.js")
        for name in re.findall(r'from "(\./[^"]+)"', file.read_text())
    }
    assert len(imports) > 15 and all(file.is_file() for file in imports)
    manifest = json.loads((page.folder / "manifest.json").read_text())
    assert manifest["start_url"] == "." and (page.folder / manifest["icons"][0]["src"]).is_file()
    assert "fetch(" not in re.sub(r"//.*", "", (page.folder / "static" / "worker.js").read_text())
    assert "/api/" not in (page.folder / "static" / "api.js").read_text().replace("painter's api.js", "")


def test_page_has_all_of_the_painters_functions_that_its_model_can_need(page: StandalonePage) -> None:
    static = page.folder / "static"
    used = {name for file in static.glob("*.js") for name in re.findall(r"\bapi\.(\w+)\(", file.read_text())}
    has = set(re.findall(r"^export (?:async function|const) (\w+)", (static / "api.js").read_text(), re.MULTILINE))
    of_server = {"fetchRandom", "sendStyle", "fetchPairLabels", "fetchPairPhoto", "savePair"}
    assert used - has == of_server


def test_service_worker_keeps_all_files_but_the_large_ones(page: StandalonePage) -> None:
    version, files = (page.folder / "service_worker.js").read_text().split("\n")[:2]
    assert re.fullmatch(r'const VERSION = "[0-9a-f]{16}";', version)
    kept = set(json.loads(files.removeprefix("const FILES = ").removesuffix(";")))
    large = {
        "service_worker.js",
        "model/model.onnx",
        *(f"runtime/{file.name}" for file in (page.folder / "runtime").iterdir()),
    }
    all_files = {file.relative_to(page.folder).as_posix() for file in page.folder.rglob("*") if file.is_file()}
    assert kept - {"./"} == all_files - large and "./" in kept
    assert len(large) == 8


def test_description_is_the_servers_with_what_the_page_needs(page: StandalonePage, synthesizer: Synthesizer) -> None:
    model = json.loads((page.folder / "model" / "model.json").read_text())
    assert (model["name"], model["size"], model["noise"], model["style"]) == ("tiny", [64, 64], True, "none")
    assert model["photo"] is model["random"] is False  # no server draws scenes
    assert model["program"]["sizes"]["2"] == {"padded": [128, 128], "noise": [16]}
    assert model["program"]["webgpu"] is True and model["program"]["bytes"] == page.model_bytes == 7
    assert [entry["value"] for entry in model["classes"]] == list(range(synthesizer.label_space.num_channels))
    for example in model["examples"]:
        shown, ids = (page.folder / "examples" / f"{example['token']}{ending}.png" for ending in ("", "-ids"))
        assert Image.open(shown).mode == "P" and Image.open(ids).mode == "L"
        np.testing.assert_array_equal(np.asarray(Image.open(shown)), np.asarray(Image.open(ids)))
    assert len(model["examples"]) == 6


def test_runtime_files_are_copied_under_names_that_hosts_serve_as_scripts(
    synthesizer: Synthesizer, runtime: Path, tmp_path: Path, fast: None
) -> None:
    for name in WEBGPU:
        (runtime / "dist" / name).unlink()
    made = export_page(synthesizer, tmp_path / "page", runtime / "dist")
    copied = {file.name: file.read_text() for file in (made.folder / "runtime").iterdir()}
    assert copied == dict(zip(("wasm.js", "wasm-loader.js", "wasm.wasm"), (f"// {name}" for name in WASM), strict=True))
    assert json.loads((made.folder / "model" / "model.json").read_text())["program"]["webgpu"] is False
    assert list(made.runtime_bytes) == ["wasm"]


def test_missing_runtime_file_is_named(synthesizer: Synthesizer, runtime: Path, tmp_path: Path) -> None:
    (runtime / "dist" / WASM[1]).unlink()
    with pytest.raises(DataError, match=r"no ort-wasm-simd-threaded\.mjs of ONNX Runtime Web; get it with `npm pack"):
        export_page(synthesizer, tmp_path / "page", runtime)


def test_only_a_page_is_replaced_and_only_when_asked(
    page: StandalonePage, synthesizer: Synthesizer, runtime: Path, tmp_path: Path
) -> None:
    (page.folder / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds a page already"):
        export_page(synthesizer, page.folder, runtime)
    assert (page.folder / "mine.txt").exists()
    export_page(synthesizer, page.folder, runtime, overwrite=True)
    assert not (page.folder / "mine.txt").exists() and (page.folder / "index.html").exists()
    other = tmp_path / "photos"
    (other / "model").mkdir(parents=True)
    (other / "model" / "model.json").write_text('{"format": "another"}')
    with pytest.raises(OutputError, match="no exported page, so it is not replaced"):
        export_page(synthesizer, other, runtime, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["package", "page", "photos"]


def test_failed_export_leaves_what_was_there(
    page: StandalonePage, synthesizer: Synthesizer, runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file: file.read_bytes() for file in page.folder.rglob("*") if file.is_file()}

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write_page", fail)
    with pytest.raises(OutputError, match=r"cannot write .*No space left on device"):
        export_page(synthesizer, page.folder, runtime, overwrite=True)
    assert {file: file.read_bytes() for file in page.folder.rglob("*") if file.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["package", "page"]


def test_models_that_the_page_cannot_feed_are_refused(synthesizer: Synthesizer, runtime: Path, tmp_path: Path) -> None:
    model = copy(synthesizer)
    for changed, said in (
        (replace(model.sampling, style="required"), "needs a style image"),
        (replace(model.sampling, condition=replace(model.sampling.condition, source="images")), "from images"),
    ):
        model.sampling = changed
        with pytest.raises(ConfigError, match=said):
            export_page(model, tmp_path / "page", runtime)
    assert not (tmp_path / "page").exists()


@pytest.mark.slow
def test_program_has_half_weights_and_the_generators_image(
    synthesizer: Synthesizer, runtime: Path, tmp_path: Path
) -> None:
    made = export_page(synthesizer, tmp_path / "page", runtime)
    session = onnxruntime.InferenceSession(
        str(made.folder / "model" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    for side in (64, 128):
        label = torch.randint(0, 14, (1, side // 8, side // 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
        noise = synthesizer.noise(3)[None]
        found = torch.from_numpy(session.run(None, {"label": label.numpy(), "noise": noise.numpy()})[0])
        expected = synthesizer.generate(Batch(label), noise)
        off = (float_to_uint8(found).int() - float_to_uint8(expected).int()).abs()
        assert float((off <= 2).float().mean()) > 0.999
    weights = sum(parameter.numel() for parameter in synthesizer.generator.parameters())
    assert made.model_bytes < 2.2 * weights + 100_000


def test_command_needs_one_output(run: Run, model_folder: Path, tmp_path: Path) -> None:
    for words, said in (
        ((), "give --out FILE, or --web FOLDER with --ort FOLDER"),
        (("--web", tmp_path / "page"), "--web needs --ort"),
        (("--web", tmp_path / "page", "--ort", tmp_path, "--fp16"), "omit --out, --format, --dynamic and --fp16"),
        (("--web", tmp_path / "page", "--ort", tmp_path), "no ort.wasm.min.mjs of ONNX Runtime Web"),
    ):
        sentence(run("export", model_folder, *words), said)
