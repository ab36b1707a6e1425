"""Export of a model as a standalone web page: the painter's files, an ONNX program and ONNX Runtime Web."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from lab2pix.errors import ConfigError, DataError, OutputError
from lab2pix.inference import Synthesizer
from lab2pix.inference.export import export
from lab2pix.utils.files import output_errors, sync_folder, unfinished_path
from lab2pix.web.painter.examples import find_examples
from lab2pix.web.painter.images import OutputFormat, encode_label_map
from lab2pix.web.painter.schemas import MAX_SCALE
from lab2pix.web.painter.service import PainterService

RUNTIME_PACKAGE = "onnxruntime-web"
"""npm package of ONNX Runtime Web."""

_FORMAT = "lab2pix-page-1"
_DESCRIPTION = "model/model.json"
_PROGRAM = "model.onnx"
_LOADER = "ort-wasm-simd-threaded"
RUNTIME_FILES = {
    "wasm": ("ort.wasm.min.mjs", f"{_LOADER}.mjs", f"{_LOADER}.wasm"),
    "webgpu": ("ort.webgpu.min.mjs", f"{_LOADER}.asyncify.mjs", f"{_LOADER}.asyncify.wasm"),
}
"""Files of the package by backend: module, loader and WebAssembly. Those of WebGPU may be missing."""
_RUNTIME_NAMES = ("{}.js", "{}-loader.js", "{}.wasm")
"""Their names in the page: some hosts serve `.mjs` with a media type that browsers refuse."""
_HEAD = """<link rel="manifest" href="manifest.json">
<meta name="description" content="Paint a label map and watch the generated image change.">
</head>"""
_ICON = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" fill="#2f6f6a"/>
<path d="M2.5 12.5l4-6 2.6 3.6 1.6-2 2.8 4.4z" fill="#fff"/><circle cx="11" cy="4.8" r="1.5" fill="#ffe128"/></svg>
"""


@dataclass(frozen=True)
class StandalonePage:
    """Result of an export.

    Attributes:
        folder: folder of the page.
        model_bytes: size of the program.
        runtime_bytes: size of ONNX Runtime Web, by backend.
        difference: largest difference of any pixel, in [-1, 1], from the generator.
    """

    folder: Path
    model_bytes: int
    runtime_bytes: dict[str, int]
    difference: float

    def __str__(self) -> str:
        """Return the folder, the sizes and the difference as one line."""
        runtimes = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in self.runtime_bytes.items())
        return (
            f"{self.folder} written: model {self.model_bytes / 1e6:.1f} MB, {runtimes}; "
            f"images differ by at most {self.difference:.1e}"
        )


def export_page(
    synthesizer: Synthesizer, out: str | Path, runtime: str | Path, *, overwrite: bool = False
) -> StandalonePage:
    """Export a model as a folder of static files: the painter's page, which generates images in the browser.

    The program has weights in float16 and computes in float32. All addresses are relative, so any static host serves
    the folder, also under a sub-path. The folder is complete, or not written at all.

    Args:
        synthesizer: the model.
        out: new or empty folder; with `overwrite`, also one that this function wrote.
        runtime: folder of the npm package `onnxruntime-web`, whose files are copied.
        overwrite: replace a page.

    Raises:
        ConfigError: the model cannot be drawn from label maps and noise alone, or the extra `onnx` is not installed.
        DataError: `runtime` lacks files of ONNX Runtime Web.
        OutputError: the folder has other content, or cannot be written.
    """
    out = Path(out)
    _check_model(synthesizer)
    found = _find_runtime(Path(runtime))
    _check_folder(out, overwrite)
    with output_errors(out, "choose another place"), _new_folder(out) as folder:
        made = export(synthesizer, folder / "model" / _PROGRAM, dynamic=True, half_weights=True)
        made.description.unlink()
        examples = _write_examples(synthesizer, folder / "examples")
        _copy_runtime(found, folder / "runtime")
        size = made.file.stat().st_size
        described = _describe(synthesizer, examples, size, webgpu="webgpu" in found)
        _write_text(folder / _DESCRIPTION, json.dumps(described, ensure_ascii=False))
        _write_page(synthesizer, folder)
        runtime_bytes = {backend: sum(file.stat().st_size for file in files) for backend, files in found.items()}
    return StandalonePage(out, size, runtime_bytes, made.difference)


# --- checks -----------------------------------------------------------------------------------------------------------


def _check_model(synthesizer: Synthesizer) -> None:
    sampling, name = synthesizer.sampling, synthesizer.config.name
    if sampling.condition.source == "images":
        raise ConfigError(f"{name} generates from images, not from label maps, which the page draws; export it as ONNX")
    if sampling.style == "required":
        raise ConfigError(f"{name} needs a style image, which the page cannot give; serve it with `lab2pix paint`")


def _find_runtime(package: Path) -> dict[str, list[Path]]:
    """Return the files of ONNX Runtime Web by backend."""
    folder = package / "dist" if (package / "dist").is_dir() else package
    found = {backend: [folder / name for name in names] for backend, names in RUNTIME_FILES.items()}
    if missing := [file.name for file in found["wasm"] if not file.is_file()]:
        raise DataError(
            f"{folder} has no {missing[0]} of ONNX Runtime Web; get it with `npm pack {RUNTIME_PACKAGE}`, unpack it, "
            "and give its folder"
        )
    return {backend: files for backend, files in found.items() if all(file.is_file() for file in files)}


def _check_folder(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        ours = json.loads((out / _DESCRIPTION).read_text(encoding="utf-8")).get("format") == _FORMAT
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise OutputError(f"{out} exists and is no exported page, so it is not replaced; choose a new folder")
    if not overwrite:
        raise OutputError(f"{out} holds a page already; choose a new folder, or pass --overwrite")


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder, which takes the place of `out` on success and is deleted on an error."""
    unfinished = unfinished_path(out.absolute())
    former = unfinished.with_name(f"{unfinished.name}-former")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        yield unfinished
        if out.exists():
            shutil.rmtree(former, ignore_errors=True)
            out.replace(former)
        unfinished.replace(out)
        sync_folder(out.absolute().parent)
        shutil.rmtree(former, ignore_errors=True)
    except BaseException:
        if former.exists() and not out.exists():
            former.replace(out)
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


# --- files ------------------------------------------------------------------------------------------------------------


def _write_text(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def _write_examples(synthesizer: Synthesizer, folder: Path) -> list[dict[str, str]]:
    """Write example label maps in colors and as ids, and return their names and tokens."""
    folder.mkdir()
    examples = find_examples(synthesizer)
    for example in examples:
        endings: dict[OutputFormat, str] = {"palette": "", "ids": "-ids"}
        for encoding, ending in endings.items():
            content = encode_label_map(example.ids, synthesizer.label_space, encoding)
            (folder / f"{example.token}{ending}.png").write_bytes(content)
    return [{"name": example.name, "token": example.token} for example in examples]


def _copy_runtime(found: dict[str, list[Path]], folder: Path) -> None:
    folder.mkdir()
    for backend, files in found.items():
        for file, name in zip(files, _RUNTIME_NAMES, strict=True):
            shutil.copyfile(file, folder / name.format(backend))


def _describe(
    synthesizer: Synthesizer, examples: list[dict[str, str]], size_in_bytes: int, *, webgpu: bool
) -> dict[str, Any]:
    """Return what the server's `/api/model` answers, with the examples and what the page's worker needs."""
    sampling, space = synthesizer.sampling, synthesizer.label_space
    described = PainterService(synthesizer).model().model_dump(mode="json", exclude={"mode", "queue"})
    values = space.encode_values(torch.arange(space.num_channels)).tolist()
    for entry, value in zip(described["classes"], values, strict=True):
        entry["value"] = value
    sizes = {}
    for scale in range(1, MAX_SCALE + 1):
        height, width = (scale * side for side in synthesizer.size)
        padded = sampling.padded_size((height, width))
        sizes[scale] = {"padded": padded, "noise": sampling.noise_shape((height, width))}
    return {
        "format": _FORMAT,
        **described,
        "style": "none",
        "photo": False,
        "random": False,
        "examples": examples,
        "program": {"file": _PROGRAM, "bytes": size_in_bytes, "sizes": sizes, "webgpu": webgpu},
    }


def _write_page(synthesizer: Synthesizer, folder: Path) -> None:
    """Write the page's own files; its module `api.js` replaces the painter's, and the service worker lists all."""
    (folder / "static").mkdir()
    for package in ("lab2pix.web", "lab2pix.web.painter", "lab2pix.web.standalone"):
        for file in (resources.files(package) / "static").iterdir():
            (folder / "static" / file.name).write_bytes(file.read_bytes())
    page = (folder / "static" / "index.html").rename(folder / "index.html")
    _write_text(page, page.read_text(encoding="utf-8").replace("</head>", _HEAD))
    _write_text(folder / "icon.svg", _ICON)
    manifest = {
        "name": f"Painter – {synthesizer.config.name}",
        "short_name": synthesizer.config.name,
        "start_url": ".",
        "display": "standalone",
        "icons": [{"src": "icon.svg", "sizes": "any", "type": "image/svg+xml"}],
    }
    _write_text(folder / "manifest.json", json.dumps(manifest, ensure_ascii=False))
    worker = (folder / "static" / "service_worker.js").rename(folder / "service_worker.js")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != worker)
    digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
    large = (folder / "runtime", folder / "model")
    kept = [file for file in files if file.parent not in large or file.suffix == ".json"]
    names = ["./", *(file.relative_to(folder).as_posix() for file in kept)]
    constants = f"const VERSION = {json.dumps(digest[:16])};\nconst FILES = {json.dumps(names)};\n"
    _write_text(worker, constants + worker.read_text(encoding="utf-8"))
