"""Training-step benchmark on small networks."""

from __future__ import annotations

import json

import pytest
import train_step

pytestmark = pytest.mark.xslow

NETWORK = "efficientnet-lite0"
SMALL = [
    "generator.num_upsamples=5", "generator.width=2", "generator.modulation_hidden=2",
    "generator.global_encoder.width=2", "discriminator.width=2", "discriminator.max_width=4",
    f"backbone.discriminator={NETWORK}", f"backbone.perceptual={NETWORK}",
]  # fmt: skip
TINY = ["--size", "64", "64", "--repeats", "1", "--threads", "1", "--set", *SMALL]


@pytest.mark.parametrize("preset", ["v2-cityscapes", "v1-cityscapes"])
def test_train_step_compares_rows_with_the_plain_step(preset, tmp_path):
    out = tmp_path / "step.json"
    small = ["segmenter.width=4"] if preset.startswith("v1") else []
    train_step.main([*TINY, *small, "--preset", preset, "--plain", "--out", str(out)])
    rows = {row["row"]: row for row in json.loads(out.read_text())["rows"] if row["device"] == "cpu"}
    assert list(rows) == ["fp32", "bf16, channels-last", train_step.PLAIN]
    plain = rows[train_step.PLAIN]
    assert plain["seconds_ratio"] == plain["tflop_ratio"] == plain["peak_mib_ratio"] == 1
    for row in rows.values():
        assert row["seconds_ratio"] == row["seconds"] / plain["seconds"] > 0
        assert row["peak_mib"] > 0
    if preset.startswith("v1"):  # the co-attention's convolution of an upsampled map has fewer products
        assert rows["fp32"]["tflop"] < plain["tflop"]
    else:  # the plain network, too, computes repeated outputs of the global encoder once
        assert rows["fp32"]["tflop"] == plain["tflop"]


def test_train_step_roofline_counts_products(tmp_path, capsys):
    out = tmp_path / "roofline.json"
    train_step.main([*TINY, "--roofline", "--rows", "fp32", "--out", str(out)])
    (row,) = json.loads(out.read_text())["rows"]
    assert row["seconds"] > 0 < row["products_alone_s"] and 0 < row["other_gib"] < 10
    assert sum(row["profile"].values()) == pytest.approx(1)
    assert "convolutions, matrix products" in capsys.readouterr().out


def test_train_step_memory_is_of_a_process_per_row(monkeypatch, tmp_path):
    few = {name: train_step.MEMORY_ROWS[name] for name in ("batch 1", "batch 4 in 4 parts, checkpointing, bf16")}
    monkeypatch.setattr(train_step, "MEMORY_ROWS", few)
    out = tmp_path / "memory.json"
    train_step.main([*TINY, "--memory", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [row["row"] for row in rows] == list(few)
    assert all(0.1 < row["before_gib"] <= row["peak_gib"] < 64 for row in rows)


def test_train_step_settings_are_those_of_the_row():
    args = train_step.arguments([*TINY, "--batch", "2"])
    config = train_step.config_of(args, train_step.ROWS["bf16, channels-last"])
    assert (config.train.precision, config.train.channels_last, config.train.batch_size) == ("bf16", True, 2)
    assert config.data.size == (64, 64) and config.generator.num_upsamples == 5
    assert len(train_step.batch_of(config, 3)) == 2
