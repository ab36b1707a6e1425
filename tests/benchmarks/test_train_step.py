from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NETWORK = "efficientnet-lite0"
TINY = [
    *("--width", "2", "--segmenter-width", "4", "--size", "64", "64", "--repeats", "1", "--threads", "1"),
    *("--only-ends", "--backbones", NETWORK, NETWORK),
]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import train_step

    return train_step


@pytest.mark.parametrize("method", ["v2", "v1"])
def test_train_step_benchmark_measures_every_variant(script, method, tmp_path, capsys) -> None:
    out = tmp_path / "step.json"
    settings = ["channels-last", "bf16", "bf16, channels-last"]
    script.main([*TINY, "--method", method, "--settings", *settings, "--out", str(out)])
    record = json.loads(out.read_text())
    rows = {row["variant"]: row for row in record["rows"] if row["device"] == "cpu"}
    assert list(rows) == ["all savings", *settings, "no savings"]
    plain = rows["no savings"]
    for row in rows.values():
        assert row["time_ratio"] == row["step_s"] / plain["step_s"]
        assert row["gflop_per_s"] == pytest.approx(1000 * row["tflop"] / row["step_s"])
        assert len(row["all_step_s"]) == 1 and row["peak_mib"] > 0
    assert rows["bf16"]["tflop"] == rows["all savings"]["tflop"] < plain["tflop"]
    assert {row["precision"] for row in record["bare_convolutions"]} == {"fp32", "bf16"}
    assert record["machine"] and record["versions"]["torch"] == torch.__version__
    printed = capsys.readouterr().out
    assert "a bare 3x3 convolution, 1x2x64x64, bf16" in printed
    assert torch.cuda.is_available() or "rows of a GPU are skipped" in printed


def test_settings_change_how_a_step_runs_and_not_what_it_is(script) -> None:
    method, batch, noise = script.build(script.arguments([*TINY, "--method", "v2"]))
    step = script.Step(method, batch, noise)
    ways = script.ways(script.METHODS["v2"], script.arguments([*TINY, "--settings", "bf16, channels-last"]))
    weight = next(p for p in method.generator.parameters() if p.ndim == 4 and min(p.shape) > 1)
    losses = {}
    for name in ("all savings", "bf16, channels-last", "no savings"):
        step.switch(ways[name])
        assert weight.is_contiguous(memory_format=torch.channels_last) == ("channels-last" in name)
        carry, found = step.generator_half()
        assert carry.generated_features[0][0].dtype == (torch.bfloat16 if "bf16" in name else torch.float32)
        losses[name] = found | step.discriminator_half(carry)
    step.parts.restore()
    for name in ("fake", "real", "blurred", "perceptual"):
        torch.testing.assert_close(losses["no savings"][name], losses["all savings"][name], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(
            losses["bf16, channels-last"][name], losses["all savings"][name], rtol=0.05, atol=0.05
        )
        assert losses["bf16, channels-last"][name] != losses["all savings"][name]


def test_memory_of_a_training_process_is_told(script, capsys) -> None:
    import train_step_memory

    narrow = ("generator.width=2", "discriminator.width=2", "discriminator.max_width=4")
    eyes = (f"backbone.discriminator={NETWORK}", f"backbone.perceptual={NETWORK}")
    words = ["--size", "64", "64", "--steps", "1", "--set", *narrow, *eyes]
    for row, parts in (("batch 1, checkpointing", [1]), ("batch 4 in 4 parts, checkpointing, bf16", [1] * 4)):
        train_step_memory.main([*words, "--row", row])
        found = json.loads(capsys.readouterr().out)
        assert found["parts"] == parts
        assert 0.1 < found["before_gib"] <= found["peak_gib"] < 64
        assert found["step_s"] > 0


@pytest.mark.parametrize("method", ["v2", "v1"])
def test_the_limit_counts_what_a_step_calls(script, method, tmp_path, capsys) -> None:
    import train_step_limit

    out = tmp_path / "limit.json"
    train_step_limit.main([*TINY, "--method", method, "--out", str(out)])
    rows = {row["way"]: row for row in json.loads(out.read_text())["rows"]}
    assert list(rows) == ["plain", "fp32", "bf16, channels-last"]
    for row in rows.values():
        assert row["products_alone_s"] > 0 and 0 < row["other_gib"] < 10
        assert row["at_most"] == pytest.approx(rows["plain"]["step_s"] / row["products_alone_s"])
        assert sum(row["profile"].values()) == pytest.approx(1)
        assert row["profile"]["convolutions, matrix products"] > 0.1
    assert rows["fp32"]["other_gib"] < rows["plain"]["other_gib"]
    assert "at bandwidth" in capsys.readouterr().out
