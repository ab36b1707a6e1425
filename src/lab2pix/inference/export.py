"""Export of generators to ONNX or torch.export programs, each with a JSON description.

A program maps class ids and noise (and a style image, where the generator requires one) to images; one-hot encoding and
instance edges are part of the graph. Spectral norm
is folded into the weights, and batch norm statistics into the convolutions for gamma and beta.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from lab2pix.batch import Batch
from lab2pix.data.transforms import instance_edges
from lab2pix.errors import ConfigError, OutputError, did_you_mean
from lab2pix.inference.program import Inputs, Program
from lab2pix.inference.synthesizer import Synthesizer
from lab2pix.utils.extras import install_command
from lab2pix.utils.files import atomic_write
from lab2pix.utils.text import reason_of

Format = Literal["onnx", "torch"]
FORMATS: tuple[str, ...] = get_args(Format)
"""Export formats: `onnx`, for ONNX Runtime and others, and `torch`, for `torch.export.load`."""

_SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
_DESCRIPTION = "lab2pix-program-1"
_BOUNDS = {torch.float32: 1e-4, torch.float16: 3e-2}
"""Largest allowed difference from the generator, for images in [-1, 1], by dtype of the program."""
_OPSET = 18


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Attributes:
        file: the program.
        description: the JSON description.
        difference: largest difference of any pixel, in [-1, 1], from the generator.
    """

    file: Path
    description: Path
    difference: float

    def __str__(self) -> str:
        """Return the files and the difference as one line."""
        return f"{self.file} and {self.description.name} written; images differ by at most {self.difference:.1e}"


def export(
    synthesizer: Synthesizer,
    out: str | Path,
    *,
    form: str = "onnx",
    dynamic: bool = False,
    half: bool = False,
    half_weights: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Export a generator, and verify that the program reproduces its images.

    Args:
        synthesizer: the model.
        out: `.onnx` or `.pt2` file, matching the format; `NAME.json` in the same folder describes inputs and output.
        form: one of `FORMATS`.
        dynamic: export dynamic shapes (batch, height, width); otherwise a batch of one at the size of the model.
        half: weights and computation in float16; noise and images stay float32.
        half_weights: weights in float16 and computation in float32, for ONNX: runtimes convert the weights at load.
        overwrite: replace existing files.

    Raises:
        ConfigError: unknown format, the extra `onnx` is not installed, or the generator cannot be exported.
        OutputError: a file exists or cannot be written, or the program differs from the generator.
    """
    out = Path(out)
    _check(out, form, overwrite)
    if synthesizer.sampling.mode == "train":
        raise ConfigError(
            f"this generator ({synthesizer.config.name}) samples with dropout and batch statistics, which no program "
            "can hold; draw with the package instead"
        )
    program = Program(synthesizer, torch.float16 if half else torch.float32, dynamic)
    shapes = [(1, *program.size)]
    if dynamic:  # the last shape is traced: a dimension of 1 would be specialized
        sides = (3 * program.stride, 4 * program.stride)
        shapes.append((2, *(sides if sides != program.size else sides[::-1])))
    try:
        with atomic_write(out.with_suffix(".json"), out) as (description, unfinished):
            run = _write(program, program.example(*shapes[-1]), unfinished, form, dynamic, half_weights)
            difference = max(_difference(synthesizer, program, run, shape) for shape in shapes)
            bound = _BOUNDS[torch.float16 if half_weights else program.dtype]
            if not difference <= bound:
                raise OutputError(
                    f"the program for {out} differs from lab2pix by {difference:.1e} (allowed: {bound:.0e}), so it was "
                    f"removed; {'omit --fp16' if half else 'export in the other format'}"
                )
            del run
            described = _describe(synthesizer, program, out.name, form, dynamic, difference)
            description.write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {out} ({error}); choose another place") from error
    return Exported(out, out.with_suffix(".json"), difference)


def _check(out: Path, form: str, overwrite: bool) -> None:
    """Check format, suffix, existing files and dependencies before the export."""
    if form not in FORMATS:
        raise ConfigError(f"there is no format '{form}' to export to{did_you_mean(form, (*FORMATS, 'weights'))}")
    if out.suffix != _SUFFIXES[form]:
        raise ConfigError(f"{out} does not end in {_SUFFIXES[form]}, as programs of format {form} do; rename it")
    for file in (out, out.with_suffix(".json")):
        if file.exists() and not overwrite:
            raise OutputError(f"{file} exists; choose another name, or pass --overwrite")
    if form == "onnx":
        try:
            for module in ("onnx", "onnxscript", "onnxruntime"):
                importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(f"exporting to ONNX needs the extra 'onnx': {install_command('onnx')}") from error


# --- writing and running it ------------------------------------------------------------------------------------------

Run = Callable[[Inputs], Tensor]


def _write(program: Program, example: Inputs, file: Path, form: str, dynamic: bool, half_weights: bool) -> Run:
    """Trace and write a program, and return a function that runs the written file."""
    try:
        # The tracer warns about its own internals.
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            traced = torch.export.export(
                program, (), example, dynamic_shapes=_shapes(program, example) if dynamic else None, strict=False
            )
            for node in traced.graph.nodes:
                node.meta.pop("stack_trace", None)  # contains local paths
            if form == "torch":
                torch.export.save(traced, file)
            else:
                _write_onnx(traced, list(example), file, half_weights)
            return _open_onnx(file) if form == "onnx" else _open_torch(file)
    except OSError:
        raise
    except Exception as error:  # tracing and conversion raise arbitrary errors
        options = ["--dynamic"] * dynamic + ["--fp16"] * (program.dtype is torch.float16)
        hint = f"omit {options[0]}" if options else "generate with the package instead"
        raise ConfigError(
            f"this generator ({program.name}) cannot be exported to the format {form} ({reason_of(error)}); {hint}"
        ) from error


def _shapes(program: Program, example: Inputs) -> dict[str, dict[int, Any]]:
    # Tracing specializes on dimensions of 1, which the program then rejects.
    count, height, width = (
        cast(Any, Dim(name, min=least)) for name, least in (("batch", 1), ("rows", 2), ("columns", 2))
    )

    def shape(name: str, tensor: Tensor) -> dict[int, Any]:
        if name == "noise" and not program.sampling.noise_stride:
            return {0: count}
        factor = program.stride // (program.sampling.noise_stride if name == "noise" else 1)
        return {0: count, tensor.ndim - 2: factor * height, tensor.ndim - 1: factor * width}

    return {name: shape(name, tensor) for name, tensor in example.items()}


def _write_onnx(traced: ExportedProgram, names: list[str], file: Path, half_weights: bool) -> None:
    import onnx

    made = torch.onnx.export(
        traced, (), input_names=names, output_names=["picture"], opset_version=_OPSET, dynamo=True, verbose=False
    )
    assert made is not None
    program = made.model_proto
    graph = program.graph
    del graph.value_info[:]
    for part in (program, graph, *graph.node, *graph.input, *graph.output):
        del part.metadata_props[:]  # tracing metadata, larger than the weights of small networks
    for entry in (*graph.input, *graph.output):
        sides = {0: "N"} if entry.name == "noise" else {0: "N", -2: "H", -1: "W"}
        dims = entry.type.tensor_type.shape.dim
        for place, side in sides.items():
            if dims[place].dim_param:
                dims[place].dim_param = side
    if half_weights:
        _halve_weights(graph)
    onnx.save(program, str(file))


def _halve_weights(graph: Any) -> None:
    """Store the weights of an ONNX graph in float16, each with a cast to float32, which runtimes fold at load."""
    from onnx import TensorProto, helper, numpy_helper

    for weight in graph.initializer:
        if weight.data_type == TensorProto.FLOAT and len(weight.dims) > 1:
            name, values = weight.name, numpy_helper.to_array(weight).astype(np.float16)
            weight.CopyFrom(numpy_helper.from_array(values, f"{name}.half"))
            graph.node.insert(0, helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT))


def _open_onnx(file: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])

    def run(inputs: Inputs) -> Tensor:
        images: np.ndarray[Any, Any] = session.run(None, {name: given.numpy() for name, given in inputs.items()})[0]
        return torch.from_numpy(images)

    return run


def _open_torch(file: Path) -> Run:
    module = torch.export.load(file).module()

    def run(inputs: Inputs) -> Tensor:
        with torch.no_grad():
            return cast(Tensor, module(**inputs))

    return run


def _difference(synthesizer: Synthesizer, program: Program, run: Run, shape: tuple[int, int, int]) -> float:
    """Return the largest difference between the images of a program and of the generator."""
    inputs = program.example(*shape)
    edges = instance_edges(inputs["instances"]) if "instances" in inputs else None
    noise = inputs.get("noise", torch.zeros(shape[0], 0))
    source, empty = inputs.get("source"), torch.empty(shape[0], 0, 0, dtype=torch.int64)
    batch = Batch(
        inputs.get("label", empty),
        edges=edges,
        instances=inputs.get("instances"),
        source=source,
        style=inputs.get("style"),
    )
    expected = synthesizer.generate(batch, noise).cpu()
    try:
        images = run(inputs)
    except Exception as error:  # runtimes raise errors of their own
        raise OutputError(
            f"the program cannot generate {shape} ({reason_of(error)}), and was removed; use the other format"
        ) from error
    if images.shape != expected.shape:
        return torch.inf
    return float((images - expected).abs().nan_to_num(nan=torch.inf).max())


# --- the description -------------------------------------------------------------------------------------------------

_MEANINGS = {
    "label": "class ids: 'id' of 'classes'",
    "source": "image to generate from, -1 to 1",
    "noise": "independent normal numbers; different noise gives a different image",
    "instances": "equal numbers are one object, borders between them are seen; label itself where there are none",
    "style": "style image, -1 to 1",
}


def _describe(
    synthesizer: Synthesizer, program: Program, name: str, form: str, dynamic: bool, difference: float
) -> dict[str, Any]:
    """Return the JSON description of a program: inputs, output, classes and precision."""
    height, width = program.size
    sides = ["N", "H", "W"] if dynamic else [1, height, width]
    space = synthesizer.label_space
    ids = torch.arange(space.num_channels)
    names = [*space.names, *(["unknown"] if space.unknown_value is not None else [])]
    rows = zip(ids.tolist(), names, space.palette.tolist(), space.encode_values(ids).tolist(), strict=True)
    noise = synthesizer.sampling.noise_shape(program.size) or ()
    shapes = {"label": sides, "noise": [sides[0], *noise], "instances": sides}
    shapes |= {
        "style": [sides[0], 3, *sides[1:]],
        "source": [sides[0], synthesizer.sampling.condition.channels, *sides[1:]],
    }
    types = {"label": "int64", "noise": "float32", "instances": "int64", "source": "float32", "style": "float32"}
    return {
        "format": _DESCRIPTION,
        "program": {"file": name, "form": form, "made_by": f"lab2pix {version('lab2pix')}"},
        "model": {"name": synthesizer.config.name, "step": synthesizer.step},
        "computes_in": str(program.dtype).removeprefix("torch."),
        "largest_difference": difference,
        "size": [height, width],
        "multiple_of": program.stride if dynamic else None,
        "inputs": [
            {"name": given, "shape": shapes[given], "type": types[given], "meaning": _MEANINGS[given]}
            for given in program.example(1, program.stride, program.stride)
        ],
        "output": {
            "name": "picture", "shape": [sides[0], 3, *sides[1:]], "type": "float32",
            "meaning": "red, green, blue in -1 to 1: (picture + 1) * 127.5 is 8-bit",
        },
        "label_space": space.name,
        "classes": [
            {"id": number, "name": called, "color": color, "value_in_files": value}
            for number, called, color, value in rows
        ],
    }  # fmt: skip
