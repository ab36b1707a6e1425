"""Parity of the other methods with recordings of their authors' code, and changed recordings, which must fail."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lab2pix.interop.part_vectors import check_parts
from lab2pix.interop.step_vectors import check_step
from lab2pix.interop.vectors import Row, Vectors, read_vectors
from lab2pix.methods.cut import CUT
from lab2pix.methods.cyclegan import CycleGAN
from lab2pix.testing.parity import check_file
from tests.helpers.vectors import copied, edit, failures, write_vectors

STEP = {"out", "loss", "grad_norm", "grad_norm_by_tensor", "after"}
PARTS = {"out", "loss", "grad_norm", "grad_norm_per_parameter", "after_step"}
TWO_STEPS = {
    *("out", "loss", "features", "grad_norm", "grad_norm_by_tensor", "second_step", "after_step", "after_second_step"),
}
RECORDED = {
    **{"cut_a": PARTS, "dclgan_a": PARTS, "pix2pix_a": STEP, "cyclegan_a": {*STEP, "pool_trace"}, "munit_a": STEP},
    **{"pix2pixhd_a": TWO_STEPS, "pix2pixhd_local_a": TWO_STEPS, "tsit_a": TWO_STEPS, "tsit_ast_a": TWO_STEPS},
    **{"spade_a": TWO_STEPS, "spade_vae_a": TWO_STEPS, "ccfpse_a": TWO_STEPS},
    **{"oasis_a": PARTS, "dpgan_a": {*PARTS, "feature_checksums"}, "usis_a": {*PARTS, "after_Du_part"}},
}

Change = Callable[[dict[str, Tensor], dict[str, Any]], object]


@pytest.fixture
def peers(golden_root: Path) -> Path:
    return golden_root / "peers"


@pytest.mark.slow
@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("fast", [False, pytest.param(True, marks=pytest.mark.xslow)])
def test_parity_of_the_authors_networks_and_steps(peers: Path, name: str, fast: bool) -> None:
    rows = check_file(peers / f"{name}.safetensors", fast=fast)
    assert not [row for row in rows if not row.ok]
    assert {row.output.split(".")[0] for row in rows} == RECORDED[name]


# --- changed recordings -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def computed(golden_root: Path) -> dict[str, tuple[Vectors, Callable[[Vectors], list[Row]]]]:
    """Recordings, and the comparison of each with this package's results, computed once."""
    found = {}
    for method, check in ((CUT, check_parts), (CycleGAN, check_step)):
        vectors = read_vectors(golden_root / "peers" / f"{method.name}_a.safetensors")
        found[method.name] = vectors, partial(check, results=method.vector_results(vectors))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change", "output", "note"),
    [
        ("cut", lambda tensors, _: tensors["out.idt_B"].add_(3e-4), "out.idt_B", ""),
        ("cut", lambda tensors, _: tensors["out.F.NCE.q.3"].add_(3e-4), "out.F.NCE.q.3", ""),
        ("cut", lambda _, values: values["loss"]["D_half"].update(D=0.77), "loss.D_half.D", ""),
        ("cut", lambda _, values: values["loss"]["G_half"].update(H=1.0), "loss.G_half.H", "no such value"),
        (
            "cut",
            lambda _, values: values["loss"]["NCE_per_layer_times_lambda"]["NCE"].reverse(),
            "loss.NCE_per_layer_times_lambda.NCE",
            "",
        ),
        ("cut", lambda _, values: values["grad_norm"]["G_half"].update(F=2.1), "grad_norm.G_half.F", ""),
        (
            "cut",
            lambda _, values: values["grad_norm_per_parameter"]["D_half"]["D"].update({"model.0.bias": None}),
            "grad_norm_per_parameter.D_half.D.model.0.bias",
            "",
        ),
        ("cut", lambda _, values: values["after_step"]["F"]["mlp_0.0.bias"].reverse(), "after_step.F.mlp_0.0.bias", ""),
        ("cut", lambda _, values: values["after_step"].update(E={"w": [0, 0]}), "after_step.E.w", "no such weight"),
        ("cut", lambda tensors, _: tensors.update({"out.new": torch.zeros(1)}), "out.new", "no such output"),
        ("cut", lambda tensors, _: tensors.update({"E.weight": torch.zeros(1)}), "E.weight", "no network"),
        ("cut", lambda _, values: values.update(surprise=1), "surprise", "no such value"),
        ("cyclegan", lambda tensors, _: tensors["out.rec_A"].add_(3e-4), "out.rec_A", ""),
        ("cyclegan", lambda _, values: values["loss.step"].update(G=22.69), "loss.step.G", ""),
        ("cyclegan", lambda _, values: values["loss.step"].update(H=1.0), "loss.step.H", "no such value"),
        ("cyclegan", lambda _, values: values["grad_norm.step"].update(G_A=26.3), "grad_norm.step.G_A", ""),
        (
            "cyclegan",
            lambda _, values: values["after.sums"]["D_A.model.0.weight"].reverse(),
            "after.sums.D_A.model.0.weight",
            "",
        ),
        ("cyclegan", lambda _, values: values["pool_trace"]["returned"][3].reverse(), "pool_trace", "recorded is"),
        ("cyclegan", lambda tensors, _: tensors.update({"out.new": torch.zeros(1)}), "out.new", "no such output"),
        ("cyclegan", lambda tensors, _: tensors.update({"E.weight": torch.zeros(1)}), "E.weight", "no network"),
        ("cyclegan", lambda _, values: values.update(surprise=1), "surprise", "no such value"),
    ],
)
def test_parity_fails_by_name(
    computed: dict[str, tuple[Vectors, Callable[[Vectors], list[Row]]]],
    name: str,
    change: Change,
    output: str,
    note: str,
) -> None:
    recorded, check = computed[name]
    vectors = deepcopy(recorded)
    change(vectors.tensors, vectors.values)
    [failed] = [row for row in check(vectors) if not row.ok]
    assert failed.output == output
    assert note in failed.note


@pytest.mark.parametrize(
    ("name", "change", "note"),
    [
        ("cut_a", lambda _, values: values.update(system="CUTE"), "not the networks of any method"),
        ("cut_a", lambda _, values: values["config"].update(gan_mode="nonsense"), "config.gan_mode is 'nonsense'"),
        ("cut_a", lambda tensors, _: tensors.pop("F.mlp_4.2.bias"), "the projection lacks mlp_4.2.bias"),
        ("cut_a", lambda tensors, _: tensors.pop("in.B"), "in.B"),
        ("cyclegan_a", lambda _, values: values["config"].update(gan_mode="hinged"), "config.gan_mode"),
        ("cyclegan_a", lambda tensors, _: tensors.pop("G_A.model.4.weight"), "the generator lacks model.4.weight"),
        ("cyclegan_a", lambda tensors, _: tensors.pop("in.real_B"), "the inputs are"),
        ("munit_a", lambda _, values: values["config"]["gen"].update(activ="selu"), "config.activ is 'selu'"),
        ("munit_a", lambda _, values: values["config"]["dis"].update(gan_type="wgan"), "config.gan_type"),
        ("munit_a", lambda _, values: values["config"]["gen"].update(n_res=3), "generator_a has the unknown dec.model"),
        ("munit_a", lambda tensors, _: tensors.pop("in.s_a_gen"), "the inputs are"),
        ("spade_a", lambda _, values: values["config"].update(gan_mode="strange"), "hinge"),
        ("spade_a", lambda _, values: values["config"].update(num_upsampling_layers="strange"), "most"),
    ],
)
def test_parity_fails_as_a_whole(peers: Path, tmp_path: Path, name: str, change: Change, note: str) -> None:
    vectors = read_vectors(peers / f"{name}.safetensors")
    change(vectors.tensors, vectors.values)
    [failed] = check_file(write_vectors(tmp_path, vectors.tensors, vectors.values))
    assert failed.output == "made.safetensors"
    assert not failed.ok
    assert note in failed.note


@pytest.mark.slow
def test_parity_notices_wrong_weights_losses_and_rates(peers: Path, tmp_path: Path) -> None:
    file = copied(peers / "spade_vae_a.safetensors", tmp_path)
    wrong: dict[str, Tensor | None] = {"E.fc_var.bias": load_file(file)["E.fc_var.bias"] + 0.5}
    vectors = read_vectors(file)
    values = {
        "config": vectors.values["config"] | {"gan_mode": "ls"},
        "optimizer": vectors.values["optimizer"] | {"betas": [0.5, 0.999]},
        "surprise": {"a": 1},
    }
    edit(file, wrong | {"in.surprise": torch.zeros(1), "X.weight": torch.zeros(1)}, values)
    failed = set(failures(check_file(file)))
    assert {"in.surprise", "X.weight", "surprise"} <= failed
    assert {
        *("out.eval.logvar", "out.eval.fake", "loss.generator.KLD", "loss.discriminator.D_Fake"),
        *("after_second_step.delta_abs_sum.D", "grad_norm.after_generator_half.E"),
    } <= failed
    assert "out.eval.mu" not in failed


@pytest.mark.slow
def test_recording_without_feature_matching_is_compared_too(peers: Path, tmp_path: Path) -> None:
    """The generator phase then leaves real images out, but recordings hold what discriminators say of them."""
    file = copied(peers / "ccfpse_a.safetensors", tmp_path)
    edit(file, values={"config": read_vectors(file).values["config"] | {"no_ganFeat_loss": True}})
    rows = {row.output: row for row in check_file(file)}
    assert rows["out.D.pred3.real"].ok
    assert rows["features.D.enc5.real_norm"].ok
    assert rows["loss.generator.GAN"].ok
    assert not rows["loss.generator.GAN_Feat"].ok
    assert not rows["grad_norm.after_generator_half.G"].ok


@pytest.mark.xslow
def test_parity_notices_another_strength_of_the_style(peers: Path, tmp_path: Path) -> None:
    file = copied(peers / "tsit_ast_a.safetensors", tmp_path)
    edit(file, values={"config": read_vectors(file).values["config"] | {"alpha": 0.5}})
    assert {"out.eval.fake", "out.train.fake", "loss.generator.GAN"} <= set(failures(check_file(file)))
