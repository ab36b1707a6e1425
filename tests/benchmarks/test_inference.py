"""Inference benchmark on small networks."""

from __future__ import annotations

import json
from importlib.util import find_spec

import inference
import pytest
import torch

TINY = [
    "--size", "64", "64", "--repeats", "1", "--threads", "1", "--regions", "6", "--set", "generator.width=2",
    "generator.modulation_hidden=2", "generator.global_encoder.width=2", "generator.num_upsamples=5",
]  # fmt: skip


@pytest.mark.xslow
@pytest.mark.parametrize("preset", ["v2-cityscapes", "v1-cityscapes"])
def test_inference_measures_modes_and_runtimes(preset, tmp_path, capsys):
    out = tmp_path / "inference.json"
    inference.main([*TINY, "--presets", preset, "--out", str(out)])
    record = json.loads(out.read_text())
    rows = {(row["row"], row["kind"]): row for row in record["rows"] if row["device"] == "cpu"}
    plain, fast = rows["plain", "new label map"], rows["fast", "new label map"]
    assert plain["difference"] == 0 < fast["difference"] <= 1e-4
    assert fast["faster"] == plain["seconds"] / fast["seconds"]
    assert rows["fast", "more seeds"]["seconds"] > 0 < rows["fast-bf16", "new label map"]["peak_mib"]
    for name in ("onnxruntime", "openvino"):
        assert ((name, "new label map") in rows) == (find_spec(name) is not None and find_spec("onnx") is not None)
        if (name, "new label map") in rows:
            assert rows[name, "new label map"]["difference"] <= 1e-4
    assert 0 < plain["distinct_patches"] < 1
    assert "patches are distinct" in capsys.readouterr().out


def test_inference_counts_distinct_patches():
    assert inference.distinct_patches(torch.zeros(1, 64, 64, dtype=torch.long), 3) == 25 / 64**2
    ids = inference.label_map((64, 96), 5, 6)
    assert ids.shape == (1, 64, 96) and int(ids.max()) < 5
    assert inference.distinct_patches(ids, 5) < 1
