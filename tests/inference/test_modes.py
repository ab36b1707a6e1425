from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lab2pix.data.label_maps import write_label_png
from lab2pix.errors import ConfigError
from lab2pix.inference import Synthesizer, modes
from lab2pix.labels.space import LabelSpace
from tests.helpers.commands import Run
from tests.helpers.generators import tiny_synthesizer

SIZE = (64, 64)


def make(method: str = "lab2pix-v2", *, edges: bool = False, **generator: object) -> Synthesizer:
    settings = {"spectral_norm": True, **generator}
    return tiny_synthesizer(method=method, data={"instance_edges": edges}, lively=False, **settings)


def ids(seed: int = 0) -> Tensor:
    coarse = torch.randint(0, 10, (8, 8), generator=torch.Generator().manual_seed(seed))
    return coarse.repeat_interleave(8, 0).repeat_interleave(8, 1)


def images(synthesizer: Synthesizer, seed: int = 0) -> list[Tensor]:
    batch, noise = synthesizer.read(ids(seed)), synthesizer.noise_samples(seed, 1)
    if synthesizer.sampling.outputs > 1:
        return synthesizer.generate_pyramid(batch, noise)
    return [synthesizer.generate(batch, noise)]


BUILDS = {
    "v2": {}, "v2 with borders": {"edges": True}, "spade": {"modulation": "spade"},
    "v1": {"method": "lab2pix-v1", "progressive": True, "coattention": True},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("build", BUILDS)
def test_fast_mode_matches_plain(build: str) -> None:
    synthesizer = make(**BUILDS[build])  # type: ignore[arg-type]
    plain = images(synthesizer)
    for mode, limit, decibels in (("fast", 1e-4, 80), ("fast-bf16", 0.2, 30)):
        assert synthesizer.optimize(mode).mode == synthesizer.mode == mode  # type: ignore[arg-type]
        for ours, theirs in zip(images(synthesizer), plain, strict=True):
            difference = ours - theirs
            assert 0 < float(difference.abs().max()) <= limit
            assert 10 * math.log10(4 / float(difference.square().mean())) > decibels


@pytest.mark.slow
def test_fast_mode_images_do_not_depend_on_history() -> None:
    synthesizer = make()
    synthesizer.optimize("fast")
    first = images(synthesizer)[0]
    images(synthesizer, 1)
    assert torch.equal(images(synthesizer)[0], first)
    many = synthesizer(ids(), seed=0, samples=3).tensor
    synthesizer.optimize("fast")
    assert torch.equal(synthesizer(ids(), seed=0, samples=2).tensor, many[:2])


class TestAuto:
    def seconds(self, monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
        """Let each way take so long, in the order in which they are measured."""
        times = iter([seconds["plain"], seconds["fast"]])
        monkeypatch.setattr(modes, "_timed", lambda draw, device: (next(times), draw()))

    def test_auto_mode_takes_the_faster_mode(self, monkeypatch: pytest.MonkeyPatch) -> None:
        synthesizer = make()
        for plain, fast, expected in ((2.0, 1.0, "fast"), (1.0, 2.0, "plain")):
            self.seconds(monkeypatch, plain=plain, fast=fast)
            chosen = synthesizer.optimize("auto")
            assert (chosen.mode, chosen.seconds) == (expected, {"plain": plain, "fast": fast})
            assert str(chosen) == f"{expected} (one image: plain {plain:.2f} s, fast {fast:.2f} s)"

    def test_auto_mode_measures_by_itself(self) -> None:
        chosen = make().optimize()
        assert chosen.mode == min(chosen.seconds, key=chosen.seconds.__getitem__)
        assert min(chosen.seconds.values()) > 0

    def test_auto_mode_never_takes_a_mode_that_differs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        synthesizer, other = make(), make(modulation_hidden=4)
        monkeypatch.setattr(modes, "fuse", lambda generator: other.generator)
        self.seconds(monkeypatch, plain=2.0, fast=1.0)
        assert synthesizer.optimize("auto").mode == "plain"

    def test_auto_mode_is_plain_for_unsupported_generators(self) -> None:
        synthesizer = make()
        chosen = modes.choose(nn.Linear(1, 1), synthesizer.config, synthesizer.label_space)
        assert (chosen.mode, chosen.seconds) == ("plain", {})
        with pytest.raises(ConfigError, match="Linear cannot be fused"):
            modes.choose(nn.Linear(1, 1), synthesizer.config, synthesizer.label_space, "fast")


def test_optimize_again_uses_changed_weights() -> None:
    synthesizer = make()
    synthesizer.optimize("fast")
    before = images(synthesizer)[0]
    synthesizer.generator.to_image.bias.add_(1)  # type: ignore[union-attr, operator]
    assert torch.equal(images(synthesizer)[0], before)
    synthesizer.optimize("fast")
    after = images(synthesizer)[0]
    synthesizer.optimize("plain")
    assert float((after - images(synthesizer)[0]).abs().max()) <= 1e-4
    assert float((after - before).abs().max()) > 0.1


def test_unknown_inference_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"inference mode 'fasd'; did you mean 'fast'\?"):
        make().optimize("fasd")  # type: ignore[arg-type]


class TestCommands:
    @pytest.fixture
    def model(self, tmp_path: Path) -> Path:
        (tmp_path / "labels").mkdir()
        write_label_png(tmp_path / "labels" / "a.png", ids(), LabelSpace.load("scenes"))
        return make().save(tmp_path / "model")

    def picture(self, folder: Path) -> np.ndarray:
        return np.asarray(Image.open(folder / "a.png")).astype(int)

    @pytest.mark.slow
    def test_generate_command_takes_inference_modes(self, run: Run, model: Path, tmp_path: Path) -> None:
        words = ("generate", model, tmp_path / "labels", "--device", "cpu", "--out")
        assert run(*words, tmp_path / "plain")[0] == 0
        code, out, _ = run(*words, tmp_path / "fast", "--fast")
        assert code == 0 and "(one image: plain" in out
        code, out, _ = run(*words, tmp_path / "forced", "--optimize", "fast")
        assert code == 0 and "mode: fast\n" in out
        for folder in ("fast", "forced"):
            assert np.abs(self.picture(tmp_path / folder) - self.picture(tmp_path / "plain")).max() <= 1
        code, _, error = run(*words, tmp_path / "wrong", "--optimize", "quick")
        assert code == 2 and "no inference mode 'quick'" in error

    def test_synthesizer_load_takes_inference_modes(self, model: Path) -> None:
        assert Synthesizer.load(model, device="cpu").mode == "plain"
        synthesizer = Synthesizer.load(model, device="cpu", optimize="fast")
        assert synthesizer.mode == "fast"
        with pytest.raises(ConfigError, match="no inference mode"):
            Synthesizer.load(model, device="cpu", optimize="no")  # type: ignore[arg-type]

    @pytest.mark.slow
    def test_parity_through_fused_generators(
        self, run: Run, golden_root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from lab2pix.methods import lab2pix_v2

        fused = []
        fuse = lab2pix_v2.fuse
        monkeypatch.setattr(lab2pix_v2, "fuse", lambda generator: fused.append(generator) or fuse(generator))
        code, out, _ = run("parity", golden_root / "v2_normal.safetensors", golden_root / "v2_more.safetensors")
        assert code == 0 and not fused
        code, fast, _ = run(
            "parity", "--fast", golden_root / "v2_normal.safetensors", golden_root / "v2_more.safetensors"
        )
        assert code == 0 and len(fused) == 2
        assert fast.splitlines()[-1] == out.splitlines()[-1]
