from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.data.label_maps import write_label_png
from lab2pix.data.transforms import float_to_uint8, instance_edges
from lab2pix.errors import ConfigError, OutputError
from lab2pix.inference import ModelInfo, Synthesizer
from lab2pix.inference import export as export_module
from lab2pix.inference.export import export
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import read_config
from tests.helpers.commands import Run
from tests.helpers.generators import tiny_synthesizer

onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
pytest.importorskip("onnxscript", reason="the extra 'onnx' is not installed")

SIZE = (64, 64)


def make(
    method: str = "lab2pix-v2",
    *,
    space: str = "scenes",
    size: tuple[int, int] = SIZE,
    edges: bool = False,
    **settings: Any,
) -> Synthesizer:
    tiny = {"width": 2, "modulation_hidden": 4, "noise_dim": 8, "global_encoder": {"width": 2, "max_width": 4}}
    data = {"size": size, "instance_edges": edges}
    return tiny_synthesizer(space, method=method, data=data, **tiny, **{"spectral_norm": True, **settings})


def given(synthesizer: Synthesizer, count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return label maps and noise that the exporter has not seen."""
    random = torch.Generator().manual_seed(99)
    label = torch.randint(0, synthesizer.label_space.num_channels, (count, height // 4, width // 4), generator=random)
    return label.repeat_interleave(4, 1).repeat_interleave(4, 2), torch.randn(count, 8, generator=random)


def run_onnx(file: Path, **inputs: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["picture"], {name: tensor.numpy() for name, tensor in inputs.items()})[0])


def largest(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())


@pytest.fixture(scope="module")
def model() -> Synthesizer:
    """A model of Lab2Pix-V2; nobody may change it."""
    return make()


@pytest.fixture(scope="module")
def dynamic(model: Synthesizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its program for any number and size."""
    return export(model, tmp_path_factory.mktemp("dynamic") / "any.onnx", dynamic=True).file


@pytest.mark.xslow
def test_dynamic_onnx_takes_any_batch_and_image_size(model: Synthesizer, dynamic: Path) -> None:
    for count, height, width in ((1, 64, 64), (3, 64, 96), (2, 32, 160), (1, 32, 32)):
        label, noise = given(model, count, height, width)
        expected = model.generate(Batch(label), noise)
        assert float(expected.std()) > 0.05
        assert largest(run_onnx(dynamic, label=label, noise=noise), expected) < 1e-4


@pytest.mark.xslow
def test_onnx_file_holds_standard_operators_in_one_file(dynamic: Path) -> None:
    program = onnx.load(str(dynamic))
    onnx.checker.check_model(program)
    assert {node.domain for node in program.graph.node} <= {""} and not program.functions
    operators = {node.op_type for node in program.graph.node}
    assert "Conv" in operators and "BatchNormalization" not in operators
    assert {entry.name: len(entry.type.tensor_type.shape.dim) for entry in program.graph.input} == {
        "label": 3,
        "noise": 2,
    }
    assert [
        [dim.dim_param or dim.dim_value for dim in entry.type.tensor_type.shape.dim]
        for entry in (*program.graph.input, *program.graph.output)
    ] == [["N", "H", "W"], ["N", 8], ["N", 3, "H", "W"]]
    assert str(Path(export_module.__file__).parent).encode() not in dynamic.read_bytes()
    assert sorted(path.name for path in dynamic.parent.iterdir()) == ["any.json", "any.onnx"]


@pytest.mark.xslow
def test_export_description_holds_inputs_output_and_model(model: Synthesizer, dynamic: Path) -> None:
    about = json.loads(dynamic.with_suffix(".json").read_text())
    assert (about["size"], about["multiple_of"], about["computes_in"]) == ([64, 64], 32, "float32")
    assert about["program"]["file"] == "any.onnx" and about["model"] == {"name": "tiny", "step": 7}
    assert [(entry["name"], entry["type"], entry["shape"]) for entry in about["inputs"]] == [
        ("label", "int64", ["N", "H", "W"]),
        ("noise", "float32", ["N", 8]),
    ]
    assert about["output"]["shape"] == ["N", 3, "H", "W"]
    assert 0 <= about["largest_difference"] < 1e-4
    assert [entry["name"] for entry in about["classes"]] == list(model.label_space.names)


@pytest.mark.slow
def test_onnx_fixed_size_takes_instances_and_unknown_pixels(tmp_path: Path) -> None:
    model = make(space="cityscapes", edges=True, modulation="spade", input="label")
    made = export(model, tmp_path / "fixed.onnx")
    label, _ = given(model, 1, *SIZE)
    assert int(label.max()) == model.label_space.num_classes  # unknown is among them
    instances = torch.arange(64).expand(1, 64, 64) // 10
    expected = model.generate(Batch(label, edges=instance_edges(instances)), torch.zeros(1, 8))
    assert largest(run_onnx(made.file, label=label, instances=instances), expected) < 1e-4
    assert largest(run_onnx(made.file, label=label, instances=label), expected) > 1e-3
    about = json.loads(made.description.read_text())
    assert [entry["shape"] for entry in about["inputs"]] == [[1, 64, 64], [1, 64, 64]]
    assert about["multiple_of"] is None
    assert about["classes"][-1] | {"color": None} == {
        "id": model.label_space.num_classes, "name": "unknown", "color": None,
        "value_in_files": model.label_space.unknown_value,
    }  # fmt: skip


@pytest.mark.xslow
def test_float16_halves_the_onnx_file(model: Synthesizer, tmp_path: Path) -> None:
    whole, half = export(model, tmp_path / "whole.onnx"), export(model, tmp_path / "half.onnx", half=True)
    label, noise = given(model, 1, *SIZE)
    expected = model.generate(Batch(label), noise)
    assert largest(run_onnx(whole.file, label=label, noise=noise), expected) < 1e-4
    assert 1e-5 < largest(run_onnx(half.file, label=label, noise=noise), expected) < 3e-2
    bytes_of_weights = [
        sum(len(tensor.raw_data) for tensor in onnx.load(str(made.file)).graph.initializer) for made in (whole, half)
    ]
    assert bytes_of_weights[1] < 0.6 * bytes_of_weights[0]
    assert json.loads(half.description.read_text())["computes_in"] == "float16"


@pytest.mark.xslow
@pytest.mark.parametrize("encoder", ["semantic", "sketch"])
def test_onnx_of_v1_returns_the_largest_image(encoder: str, tmp_path: Path) -> None:
    settings = {"semantic": {"size": (64, 128)}, "sketch": {"space": "sketch", "encoder": "sketch"}}[encoder]
    model = make("lab2pix-v1", **settings)  # type: ignore[arg-type]
    made = export(model, tmp_path / "v1.onnx")
    label, noise = given(model, 1, *model.size)
    assert largest(run_onnx(made.file, label=label, noise=noise), model.generate(Batch(label), noise)) < 1e-4


@pytest.mark.slow
def test_export_of_colors_pads_an_odd_size(tmp_path: Path) -> None:
    config = read_config(
        {
            "method": "cyclegan",
            "name": "tiny",
            "data": {"format": "folder", "label_space": "scenes", "size": (30, 33)},
            "generator": {"width": 2, "depth": 1, "encoding": "colors"},
        }
    )
    space = LabelSpace.load("scenes")
    info = ModelInfo(config, space, 0)
    assert export(Synthesizer(info.build(), info, device="cpu"), tmp_path / "p.pt2", form="torch").difference < 1e-4
    assert json.loads((tmp_path / "p.json").read_text("utf-8"))["size"] == [32, 36]


@pytest.mark.xslow
@pytest.mark.slow
def test_torch_export_matches_the_generator(model: Synthesizer, tmp_path: Path) -> None:
    made = export(model, tmp_path / "any.pt2", form="torch", dynamic=True)
    program = torch.export.load(made.file).module()
    for count, height, width in ((1, 64, 64), (3, 96, 64)):
        label, noise = given(model, count, height, width)
        picture = program(label=label, noise=noise)
        assert largest(picture, model.generate(Batch(label), noise)) < 1e-4
    assert json.loads(made.description.read_text())["program"]["form"] == "torch"


@pytest.mark.slow
def test_export_that_differs_is_removed(model: Synthesizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_program = export_module._open_torch
    monkeypatch.setattr(
        export_module, "_open_torch", lambda file: lambda inputs: open_program(file)(inputs) + torch.tensor([2e-4])
    )
    with pytest.raises(OutputError, match=r"differs from lab2pix by 2\.\de-04 \(allowed: 1e-04\)"):
        export(model, tmp_path / "wrong.pt2", form="torch")
    monkeypatch.setattr(export_module, "_open_torch", lambda file: lambda inputs: torch.full((1, 3, *SIZE), torch.nan))
    with pytest.raises(OutputError, match="by inf"):
        export(model, tmp_path / "wrong.pt2", form="torch")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_export_overwrites_nothing(model: Synthesizer, tmp_path: Path) -> None:
    for name in ("a.pt2", "a.json"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(OutputError, match=f"{name} exists.*--overwrite"):
            export(model, tmp_path / "a.pt2", form="torch")
        assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
        if name == "a.pt2":
            (tmp_path / name).unlink()


@pytest.mark.parametrize(
    ("out", "form", "part"),
    [
        ("a.pt", "torch", r"does not end in \.pt2"),
        ("a.pt2", "onnx", r"does not end in \.onnx"),
        ("a.onnx", "onxx", "did you mean 'onnx'"),
        ("a", "weigths", "did you mean 'weights'"),
    ],
)
def test_unknown_export_formats_and_suffixes_are_refused(
    model: Synthesizer, tmp_path: Path, out: str, form: str, part: str
) -> None:
    with pytest.raises(ConfigError, match=part):
        export(model, tmp_path / out, form=form)
    assert not list(tmp_path.iterdir())


def test_onnx_export_without_its_extra_names_the_extra(
    model: Synthesizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match="extra 'onnx': pip install 'onnx>="):
        export(model, tmp_path / "a.onnx")


@pytest.mark.xslow
@pytest.mark.slow
def test_export_command_writes_and_overwrites_on_request(model: Synthesizer, tmp_path: Path, run: Run) -> None:
    model.save(tmp_path / "model")
    words = ("export", tmp_path / "model", "--format", "torch", "--out", tmp_path / "new" / "a.pt2")
    code, out, _ = run(*words)
    assert code == 0 and "a.pt2 and a.json written; images differ by at most" in out
    before = (tmp_path / "new" / "a.pt2").read_bytes()
    code, _, error = run(*words)
    assert code == 2 and "exists" in error
    assert run(*words, "--overwrite", "--dynamic")[0] == 0
    assert (tmp_path / "new" / "a.pt2").read_bytes() != before


@pytest.mark.slow
def test_export_weights_in_float16_halves_the_bytes(model: Synthesizer, tmp_path: Path, run: Run) -> None:
    model.save(tmp_path / "model")
    words = ("export", tmp_path / "model", "--format", "weights", "--fp16", "--out", tmp_path / "small")
    code, out, _ = run(*words)
    assert code == 0 and "small contains model.safetensors and config.json" in out
    sizes = [(tmp_path / folder / "model.safetensors").stat().st_size for folder in ("model", "small")]
    assert sizes[1] < 0.7 * sizes[0]
    label = np.zeros(SIZE, np.int64)
    theirs, ours = (Synthesizer.load(tmp_path / folder)(label, seed=1).tensor.int() for folder in ("model", "small"))
    assert 0 < (theirs - ours).abs().max() <= 3
    code, _, error = run(*words)
    assert code == 2 and "holds a model already" in error
    code, _, error = run(*words, "--overwrite", "--dynamic")
    assert code == 2 and "--dynamic has no effect on weights" in error
    large = Synthesizer.load(tmp_path / "model")
    with torch.no_grad():
        next(large.generator.parameters()).mul_(1e6)
    with pytest.raises(OutputError, match="too large for float16"):
        large.save(tmp_path / "large", half=True)
    assert not (tmp_path / "large").exists()


@pytest.mark.xslow
def test_onnx_example_runs_without_torch(model: Synthesizer, dynamic: Path, tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "draw_with_onnx.py"
    label, _ = given(model, 1, 64, 96)
    write_label_png(tmp_path / "label.png", label[0], model.label_space)
    words = [example, dynamic, tmp_path / "label.png", tmp_path / "picture.png", "--seed", 3]
    blocked = "import runpy, sys; sys.modules.update(torch=None, lab2pix=None); sys.argv = sys.argv[1:]; "
    program = blocked + "runpy.run_path(sys.argv[0], run_name='__main__')"
    subprocess.run([sys.executable, "-c", program, *map(str, words)], check=True, timeout=120)
    noise = np.random.default_rng(3).standard_normal((1, 8), dtype=np.float32)
    expected = float_to_uint8(model.generate(Batch(label), torch.from_numpy(noise)))[0].permute(1, 2, 0)
    picture = torch.from_numpy(np.array(Image.open(tmp_path / "picture.png")))
    assert int((picture.int() - expected.int()).abs().max()) <= 1
