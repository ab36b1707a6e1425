"""Conversion of the authors' checkpoints: equal images, and safe errors for other files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.errors import CheckpointError, ConfigError, OutputError
from lab2pix.inference import Synthesizer, convert
from lab2pix.interop.checkpoints import read_checkpoint
from lab2pix.interop.keymap import rename
from lab2pix.labels.space import LabelSpace
from lab2pix.methods.lab2pix_v2 import official_rules
from lab2pix.nn.discriminators import HierarchicalDiscriminator, MultiScaleDiscriminator
from lab2pix.nn.generators import GeneratorSettings, Lab2PixV1Generator, Lab2PixV2Generator
from lab2pix.nn.official_v1 import OfficialV1Discriminator, OfficialV1Generator
from tests.helpers.checkpoints import space_file
from tests.helpers.commands import Run


def official(network: nn.Module) -> dict[str, Tensor]:
    return rename(network, official_rules(network))


def shaken(network: nn.Module) -> nn.Module:
    """Give every weight and statistic a value that shows in the picture."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith(("_u", "_v")):
                continue
            elif tensor.ndim > 1:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5)
            elif tensor.is_floating_point():
                tensor.normal_(0, 0.1)
    return network.train().requires_grad_(False).eval()


def settled(network: nn.Module) -> nn.Module:
    """Let spectral norms find the singular vectors of the weights they have."""
    network.train()
    for _ in range(30):
        for module in network.modules():
            if hasattr(module, "parametrizations"):
                _ = module.weight
    return network.eval()


def v2(channels: int, **settings: object) -> Lab2PixV2Generator:
    defaults = {"width": 2, "modulation_hidden": 5, "global_width": 3, "global_max_width": 10}
    given = GeneratorSettings(**{**defaults, **settings})  # type: ignore[arg-type]
    network = settled(shaken(Lab2PixV2Generator(channels, given)))
    assert isinstance(network, Lab2PixV2Generator)
    return network


def v1(classes: int = 4, **settings: object) -> OfficialV1Generator:
    defaults = {"width": 2, "hidden": 3, "norm": "batch", "noise_dim": 8, "start_size": (1, 2)}
    network = shaken(OfficialV1Generator(classes, **{**defaults, **settings}))  # type: ignore[arg-type]
    assert isinstance(network, OfficialV1Generator)
    return network


def saved(folder: Path, state: dict[str, Tensor], name: str = "latest_net_G.pth") -> Path:
    torch.save(state, folder / name)
    return folder / name


def squares(classes: int, size: tuple[int, int], block: int = 8) -> Tensor:
    torch.manual_seed(2)
    coarse = torch.randint(classes, (1, size[0] // block, size[1] // block))
    return coarse.repeat_interleave(block, 1).repeat_interleave(block, 2)


def one_hot(ids: Tensor, channels: int) -> Tensor:
    return F.one_hot(ids, channels).permute(0, 3, 1, 2).float()


# --- the recorded weights -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("task", ["semantic", "sketch"])
@pytest.mark.parametrize("form", ["plain", "module", "safetensors"])
def test_released_v1_draws_the_recorded_pictures(golden_root: Path, tmp_path: Path, task: str, form: str) -> None:
    held = load_file(golden_root / f"v1_{task}.safetensors")
    prefix = "module." if form == "module" else ""
    state = {prefix + name.removeprefix("G."): value for name, value in held.items() if name.startswith("G.")}
    checkpoint = tmp_path / ("G.safetensors" if form == "safetensors" else "latest_net_G.pth")
    save_file(state, checkpoint) if form == "safetensors" else torch.save(state, checkpoint)
    space = str(space_file(tmp_path, 11)) if task == "semantic" else None

    convert(checkpoint, "lab2pix-v1-official", tmp_path / "out", label_space=space)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    synthesizer = Synthesizer.load(tmp_path / "out", device="cpu")
    if task == "semantic":
        assert synthesizer.size == (256, 512)
        label = held["in.label"].long()
    else:
        assert synthesizer.size == (256, 256)
        label = F.interpolate(held["in.sketch"], scale_factor=8.0)[:, 0].lt(0).long()
    images = synthesizer.generate_pyramid(Batch(label), held["in.noise"])
    assert (images[0][..., ::2, ::2] - held["out.X3"]).abs().max() <= 1e-4
    assert (images[1] - held["out.X2"]).abs().max() <= 1e-4
    assert (images[2] - held["out.X1"]).abs().max() <= 1e-4
    assert torch.equal(synthesizer.generate(Batch(label), held["in.noise"]), images[0])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("v2_normal", (64, 64)), ("v2_more", (64, 128))])
def test_released_v2_draws_the_recorded_pictures(
    golden_root: Path, tmp_path: Path, name: str, size: tuple[int, int]
) -> None:
    held = load_file(golden_root / f"{name}.safetensors")
    checkpoint = saved(tmp_path, {key[2:]: value for key, value in held.items() if key.startswith("G.")})
    space = str(space_file(tmp_path, 9))
    convert(checkpoint, "lab2pix-v2-official", tmp_path / "out", label_space=space, size=size)
    synthesizer = Synthesizer.load(tmp_path / "out", device="cpu")
    image = synthesizer.generate(Batch(held["in.label"][:, 0].long()), torch.zeros(2, 128))
    assert (image - held["out.generated"]).abs().max() <= 1e-4


# --- V1 of other shapes -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_semantic_v1_takes_noise_other_sizes_and_seeds(tmp_path: Path) -> None:
    network = v1(norm="instance", width=3)
    convert(
        saved(tmp_path, network.state_dict()), "lab2pix-v1-official", tmp_path / "out",
        label_space=str(space_file(tmp_path, 4)),
    )  # fmt: skip
    synthesizer = Synthesizer.load(str(tmp_path / "out"), device="cpu")
    ids = squares(4, (128, 256), 16)[0]
    pictures = synthesizer(ids, samples=2).tensor
    assert pictures.shape == (2, 3, 128, 256)
    assert not torch.equal(pictures[0], pictures[1])
    assert torch.equal(pictures[:1], synthesizer(ids).tensor)
    assert synthesizer(squares(4, (256, 256))[0], keep_size=True).tensor.shape[-2:] == (256, 256)
    with pytest.raises(ConfigError, match=r"128x128.*2 or more squares.*128x129"):
        synthesizer(squares(4, (128, 128))[0], keep_size=True)
    assert synthesizer(torch.zeros(100, 300, dtype=torch.long), keep_size=True).tensor.shape[-2:] == (100, 300)
    with torch.no_grad():
        expected = network(one_hot(ids[None], 4), synthesizer.noise(0)[None])[0]
    assert (synthesizer.generate(synthesizer.read(ids), synthesizer.noise(0)[None]) - expected).abs().max() <= 1e-5


def test_sketches_take_no_noise(tmp_path: Path) -> None:
    network = v1(1, task="sketch", norm="instance", start_size=(2, 2))
    checkpoint = saved(tmp_path, network.state_dict())
    convert(checkpoint, "lab2pix-v1-official", tmp_path / "out", size=(64, 96))
    synthesizer = Synthesizer.load(tmp_path / "out", device="cpu")
    lines = squares(2, (64, 96))[0]
    assert torch.equal(synthesizer(lines, seed=1).tensor, synthesizer(lines, seed=2).tensor)
    with pytest.raises(ConfigError, match="samples must be 1"):
        synthesizer(lines, samples=2)
    with torch.no_grad():
        expected = network(1 - 2 * lines[None, None].float())
    for ours, theirs in zip(
        synthesizer.generate_pyramid(synthesizer.read(lines), torch.zeros(1, 8)), expected, strict=True
    ):
        assert (ours - theirs).abs().max() <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "size", "expected"),
    [
        ((2, 4), None, (256, 512)),
        ((2, 2), None, (256, 256)),
        ((1, 3), (128, 384), (128, 384)),
        ((4, 2), (512, 256), (512, 256)),
    ],
)
def test_the_size_follows_from_the_noise_or_is_said(
    tmp_path: Path, start: tuple[int, int], size: tuple[int, int] | None, expected: tuple[int, int]
) -> None:
    checkpoint = saved(tmp_path, v1(start_size=start).state_dict())
    space = str(space_file(tmp_path, 4))
    done = convert(checkpoint, "lab2pix-v1-official", tmp_path / "out", label_space=space, size=size)
    assert done.config.data.size == expected
    assert f"{expected[0]}x{expected[1]}" in str(done)


# --- V2 and SPADE -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "size", "wishes"),
    [
        ({"modulation": "spade", "input": "label", "num_upsamples": 5}, (64, 64), {}),
        ({"modulation": "spade", "input": "label", "num_upsamples": 6}, (64, 128), {"num_upsamples": 6}),
        ({"modulation": "spade", "input": "label", "num_upsamples": 7, "width": 4}, (128, 128), {}),
        (
            {"modulation": "spade", "input": "noise", "num_upsamples": 6, "start_size": (1, 2), "noise_dim": 7},
            (64, 128),
            {},
        ),
        ({"modulation": "spade", "input": "label", "spectral_norm": False}, (32, 32), {}),
        ({"input": "noise", "num_upsamples": 5, "start_size": (2, 3), "noise_dim": 7}, (64, 96), {}),
        ({"input": "label", "num_upsamples": 7, "width": 4}, (128, 128), {}),
        ({"input": "label", "num_upsamples": 6, "global_max_width": 500}, (64, 64), {}),
    ],
)
def test_every_kind_of_v2_and_spade_draws_as_before(
    tmp_path: Path, settings: dict[str, object], size: tuple[int, int], wishes: dict[str, int]
) -> None:
    network = v2(4, **settings)
    form = "spade" if settings.get("modulation") == "spade" else "lab2pix-v2-official"
    checkpoint = saved(tmp_path, official(network))
    space = str(space_file(tmp_path, 4))
    convert(checkpoint, form, tmp_path / "out", label_space=space, size=size, **wishes)  # type: ignore[arg-type]
    synthesizer = Synthesizer.load(tmp_path / "out", device="cpu")
    assert synthesizer.size == size
    batch, noise = synthesizer.read(squares(4, size)[0]), synthesizer.noise(3)[None]
    with torch.no_grad():
        expected = network(one_hot(batch.label, 4), noise)
    assert expected.std() > 1e-3
    assert (synthesizer.generate(batch, noise) - expected).abs().max() <= 1e-4
    with pytest.raises(ConfigError, match=r"generates images of one size"):
        synthesizer.generate_pyramid(batch, noise)


@pytest.mark.slow
def test_spectral_norms_as_old_versions_saved_them(tmp_path: Path) -> None:
    network = v2(4, modulation="spade", input="label", start_size=(1, 1))
    state = official(network)
    for name in [name for name in state if name.endswith("weight_orig")]:
        weight, u, v = (state[name.removesuffix("orig") + part] for part in ("orig", "u", "v"))
        sigma = torch.dot(u, weight.flatten(1) @ v)
        state[name.removesuffix("_orig")] = weight / sigma
        del state[name.removesuffix("orig") + "v"]
    for name in [name for name in state if name.endswith("num_batches_tracked")]:
        del state[name]
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    convert(tmp_path / "old.pth", "spade", tmp_path / "out", label_space=str(space_file(tmp_path, 4)), size=(32, 32))
    synthesizer = Synthesizer.load(tmp_path / "out", device="cpu")
    ids = squares(4, (32, 32), 4)
    with torch.no_grad():
        expected = network(one_hot(ids, 4))
    assert (synthesizer.generate(Batch(ids), torch.zeros(1, 128)) - expected).abs().max() <= 1e-5


# --- label spaces -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "space", "edges", "num_upsamples", "size"),
    [
        (36, "cityscapes", True, 6, (256, 512)),
        (35, "cityscapes", False, 6, (256, 512)),
        (151, "ade20k", False, 5, (256, 256)),
        (152, "ade20k", True, 5, (256, 256)),
        (184, "coco-stuff", True, 5, (256, 256)),
        (183, "coco-stuff", False, 5, (256, 256)),
        (12, "facades", False, 5, (256, 256)),
    ],
)
def test_published_networks_need_no_words(
    tmp_path: Path, channels: int, space: str, edges: bool, num_upsamples: int, size: tuple[int, int]
) -> None:
    network = v2(channels, modulation="spade", input="label", num_upsamples=num_upsamples, modulation_hidden=2)
    done = convert(saved(tmp_path, official(network)), "spade", tmp_path / "out")
    assert done.label_space == LabelSpace.load(space)
    assert done.config.data.instance_edges is edges
    assert done.config.generator.num_upsamples == num_upsamples
    assert done.config.data.size == size
    assert Synthesizer.load(tmp_path / "out", device="cpu", expect_label_space=space).size == size


@pytest.mark.slow
def test_the_last_channel_is_what_it_is_said_to_be(tmp_path: Path) -> None:
    network = v2(36, modulation="spade", input="label", modulation_hidden=3)
    checkpoint = saved(tmp_path, official(network))
    for edges in (True, False):
        done = convert(checkpoint, "spade", tmp_path / str(edges), instance_edges=edges, num_upsamples=5, size=(32, 64))
        assert done.config.data.instance_edges is edges
    ids = squares(35, (32, 64), 4)
    borders = torch.zeros(1, 1, 32, 64)
    borders[..., 16] = 1
    with_edges = Synthesizer.load(tmp_path / "True", device="cpu").generate(
        Batch(ids, edges=borders), torch.zeros(1, 128)
    )
    ids[:, :8] = 35
    unknown = Synthesizer.load(tmp_path / "False", device="cpu").generate(Batch(ids), torch.zeros(1, 128))
    with torch.no_grad():
        condition = one_hot(ids, 36)
        assert (unknown - network(condition)).abs().max() <= 1e-5
        condition[:, 35] = borders[:, 0]
        condition[:, :35, :8] = one_hot(squares(35, (32, 64), 4), 35)[:, :, :8]
        assert (with_edges - network(condition)).abs().max() <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("dg_norm", [True, False])
def test_unknown_pixels_say_nothing_to_a_network_that_knows_none(tmp_path: Path, dg_norm: bool) -> None:
    network = v2(5, modulation="dg-norm" if dg_norm else "spade", input="label")
    checkpoint = saved(tmp_path, official(network))
    form = "lab2pix-v2-official" if dg_norm else "spade"
    space = str(space_file(tmp_path, 4, unknown=True))
    convert(checkpoint, form, tmp_path / "out", label_space=space, size=(32, 32), instance_edges=True)
    ids, edges = squares(4, (32, 32), 4), torch.zeros(1, 1, 32, 32)
    ids[:, 8:16] = 4
    edges[..., 5, :] = 1
    condition = torch.cat([one_hot(ids, 5)[:, :4], edges], 1)
    with torch.no_grad():
        expected = network(condition)
    image = Synthesizer.load(tmp_path / "out", device="cpu").generate(Batch(ids, edges=edges), torch.zeros(1, 128))
    assert (image - expected).abs().max() <= 1e-5


@pytest.mark.slow
def test_v1_of_cityscapes_needs_no_words_and_survives_unknown_pixels(tmp_path: Path) -> None:
    network = v1(35, start_size=(2, 4))
    done = convert(saved(tmp_path, network.state_dict()), "lab2pix-v1-official", tmp_path / "out")
    assert (done.label_space.name, done.config.data.size) == ("cityscapes", (256, 512))
    synthesizer = Synthesizer.load(tmp_path / "out", device="cpu", expect_label_space="cityscapes")
    ids = squares(35, (256, 512), 64)
    noise = synthesizer.noise(0)[None]
    with torch.no_grad():
        expected = network(one_hot(ids, 35), noise)[0]
    assert (synthesizer.generate(Batch(ids), noise) - expected).abs().max() <= 1e-5
    assert synthesizer(torch.full((256, 512), 35)).tensor.shape == (1, 3, 256, 512)


# --- what cannot be converted, through the command line -----------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of checkpoints of every kind."""
    folder = tmp_path_factory.mktemp("files")
    space_file(folder, 4)
    space_file(folder, 7)
    judge = MultiScaleDiscriminator([HierarchicalDiscriminator(7, (4, 4, 4), levels=3, width=2, max_width=8)])
    v1_state = v1().state_dict()
    v2_state = official(v2(4, input="label"))
    states = {
        "v1": v1_state,
        "v1-three": v1(start_size=(1, 3)).state_dict(),
        "sketch": v1(1, task="sketch").state_dict(),
        "v2": v2_state,
        "spade": official(v2(4, input="label", modulation="spade")),
        "spade-noise": official(v2(4, modulation="spade", start_size=(1, 2))),
        "v1-d": OfficialV1Discriminator((4, 4), width=2, max_width=8).state_dict(),
        "v2-d": official(judge),
        "ours-v1": Lab2PixV1Generator(4, GeneratorSettings(width=4)).state_dict(),
        "ours-v2": Lab2PixV2Generator(4, GeneratorSettings(width=4)).state_dict(),
        "stranger": {"layer1.0.weight": torch.zeros(1)},
        "v1-short": {name: value for name, value in v1_state.items() if "_5_fusion.mask" not in name},
        "v1-shorter": {name: value for name, value in v1_state.items() if "SPADEResBlock_3" not in name},
        "v1-long": {**v1_state, "extra.weight": torch.zeros(1)},
        "v1-bent": {**v1_state, "out_5.0.weight": torch.zeros(3, 9, 3, 3)},
        "v1-flat": {**v1_state, "SPADEResBlock_3.SPADE_1.common_conv.0.weight": torch.zeros(3)},
        "v1-scalar": {**v1_state, "noise_process.weight": torch.tensor(1.0)},
        "v1-hollow": {**v1_state, "out_7.0.weight": torch.zeros(3, 0, 3, 3)},
        "v1-starved": {**v1_state, "noise_process.weight": torch.zeros(7, 8)},
        "v1-sparse": {**v1_state, "noise_process.bias": v1_state["noise_process.bias"].to_sparse()},
        "v1-complex": {**v1_state, "noise_process.bias": v1_state["noise_process.bias"].to(torch.complex64)},
        "v2-flat": {**v2_state, "head_0.norm_0.mlp_shared.0.weight": torch.zeros(3)},
        "not-weights": {"epoch": 3},
        "empty": {},
    }
    for name, state in states.items():
        torch.save(state, folder / f"{name}.pth")
    torch.save([torch.zeros(1)], folder / "list.pth")
    (folder / "junk.pth").write_bytes(b"no checkpoint")
    (folder / "torn.pth").write_bytes((folder / "v1.pth").read_bytes()[:2000])
    (folder / "junk.safetensors").write_bytes(b"no tensors")
    return folder


FORMS = {"v1": "lab2pix-v1-official", "v2": "lab2pix-v2-official"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form", "words", "text"),
    [
        ("v2.pth", "spade", "", "it holds a generator of format 'lab2pix-v2-official'; say --from lab2pix-v2"),
        ("spade.pth", "v2", "", "it holds a generator of format 'spade'; say --from spade"),
        ("v1.pth", "spade", "", "it holds a generator of format 'lab2pix-v1-official'"),
        ("v1-d.pth", "v1", "", "holds a discriminator of the official Lab2Pix-V1; give the file"),
        ("v2-d.pth", "v2", "", "holds discriminators of the official Lab2Pix-V2"),
        ("ours-v1.pth", "v1", "", "weights of lab2pix itself"),
        ("ours-v2.pth", "v2", "", "give them to generate as they are"),
        ("stranger.pth", "spade", "", "no generator of format 'spade', but weights such as layer1.0.weight"),
        ("not-weights.pth", "spade", "", "does not hold weights by name"),
        ("empty.pth", "spade", "", "does not hold weights by name"),
        ("list.pth", "spade", "", "does not hold weights by name"),
        ("junk.pth", "spade", "", "is not a PyTorch checkpoint, or is damaged"),
        ("torn.pth", "spade", "", "is not a PyTorch checkpoint, or is damaged"),
        ("junk.safetensors", "spade", "", "cannot be read"),
        ("gone.pth", "spade", "", "there is no file"),
        ("", "spade", "", "there is no file"),
        ("v1.pth", "lab2pix-v1-relased", "", "did you mean 'lab2pix-v1-official'?"),
        ("v1.pth", "v1", "--label-space own7.yaml", "4 channels, but label space 'own7' has 7"),
        ("v1.pth", "v1", "--label-space cityscapes", "35 classes and unknown (without a"),
        ("v1.pth", "v1", "", "which no shipped label space has; say --label-space"),
        ("v1.pth", "v1", "--label-space citscapes", "did you mean 'cityscapes'?"),
        ("v2.pth", "v2", "--label-space facades", "12 classes (with or without a"),
        ("sketch.pth", "v1", "-own4", "generates from sketches"),
        ("sketch.pth", "v1", "--size 100x12", "100x12"),
        ("v1.pth", "v1", "-own4 --size 256x256", "can have 128x256, 256x128"),
        ("v1-three.pth", "v1", "-own4", "can have 128x384, 384x128"),
        ("v1.pth", "v1", "-own4 --num-upsamples 6", "doubles its size 7 times"),
        ("v1-short.pth", "v1", "-own4", "lacks SPADEResBlock_5_fusion.mask"),
        ("v1-shorter.pth", "v1", "-own4", "lacks the weight 'SPADEResBlock_3"),
        ("v1-long.pth", "v1", "-own4", "has the unknown extra.weight"),
        ("v1-bent.pth", "v1", "-own4", "out_5.0.weight is [3, 9, 3, 3], but"),
        ("v1-flat.pth", "v1", "-own4", "weights of shapes that no generator of format 'lab2pix-v1-off"),
        ("v1-scalar.pth", "v1", "-own4", "holds weights of shapes that no generator"),
        ("v1-hollow.pth", "v1", "-own4", "holds weights of shapes that no generator"),
        ("v1-starved.pth", "v1", "-own4", "v1-starved.pth holds weights of shapes that no generator"),
        ("v1-sparse.pth", "v1", "-own4", "noise_process.bias is not an array of real numbers"),
        ("v1-complex.pth", "v1", "-own4", "noise_process.bias is not an array of real numbers"),
        ("v2-flat.pth", "v2", "-own4", "no generator of format 'lab2pix-v2-official' has"),
        ("v2.pth", "v2", "-own4 --num-upsamples 6", "doubles its size 5 times"),
        ("spade.pth", "spade", "-own4 --num-upsamples 7", "5 or 6 times"),
        ("spade.pth", "spade", "-own4 --size 100x64", "multiples of 32 or 64"),
        ("spade-noise.pth", "spade", "-own4 --size 64x64", "2 such squares must fill"),
        ("spade-noise.pth", "spade", "-own4", "a map of 2 pixels"),
        ("spade.pth", "spade", "--size 64", "--size is '64'"),
    ],
)  # fmt: skip
def test_convert_errors_are_one_sentence(
    run: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: str, words: str, text: str
) -> None:
    monkeypatch.chdir(files)
    options = words.replace("-own4", "--label-space own4.yaml").split()
    code, output, errors = run(
        "convert", files / name, "--from", FORMS.get(form, form), *options, "--out", tmp_path / "out"
    )
    assert code == 2
    assert output == ""
    assert text in errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


class Trap:
    """Unpickled carelessly, it leaves a file behind."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("new", [True, False])
def test_a_pickle_that_would_execute_code_does_not(run: Run, tmp_path: Path, new: bool) -> None:
    mark = tmp_path / "executed"
    state = {"noise_process.weight": torch.zeros(1), "trap": Trap(f"touch {mark}")}
    torch.save(state, tmp_path / "bad.pth", _use_new_zipfile_serialization=new)
    code, _, errors = run("convert", tmp_path / "bad.pth", "--from", "lab2pix-v1-official", "--out", tmp_path / "out")
    assert code == 2
    assert "could execute anything" in errors
    assert "system" in errors
    assert errors.count("\n") == 1
    assert not mark.exists()
    assert not (tmp_path / "out").exists()
    torch.load(tmp_path / "bad.pth", weights_only=False)  # the trap itself works
    assert mark.exists()


@pytest.mark.slow
def test_old_files_with_damage_anywhere_are_refused(tmp_path: Path) -> None:
    torch.save({"noise_process.weight": torch.zeros(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "old.pth").read_bytes()
    key = re.findall(rb"\d{6,}", whole)[-1]  # what stands before the numbers, and in the weight that they are of
    for damaged in (*(whole[:length] for length in range(len(whole))), whole.replace(key, key[::-1], 1)):
        (tmp_path / "bad.pth").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"bad\.pth (is not a PyTorch checkpoint|contains more than weights)"):
            read_checkpoint(tmp_path / "bad.pth")


def test_convert_overwrites_nothing(run: Run, files: Path, tmp_path: Path) -> None:
    words = (
        "convert",
        files / "v1.pth",
        "--from",
        "lab2pix-v1-official",
        "--label-space",
        files / "own4.yaml",
        "--out",
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for taken in (tmp_path / "mine", tmp_path / "file"):
        code, _, errors = run(*words, taken)
        assert code == 2
        assert "is not an empty folder" in errors
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    (tmp_path / "new").mkdir()
    code, output, _ = run(*words, tmp_path / "new")
    assert code == 0
    assert "label space 'own4', 128x256 (height x width)" in output
    with pytest.raises(OutputError, match="is not an empty folder"):
        convert(files / "v1.pth", "lab2pix-v1-official", tmp_path / "new", label_space=str(files / "own4.yaml"))


# --- what is written ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "text"),
    [
        ({"norm": "layer"}, "'config.generator.official.norm'"),
        ({"norm": "batch"}, "another network"),
        (None, "another network"),
    ],
)
def test_settings_of_another_official_network_are_refused(
    files: Path, tmp_path: Path, network: object, text: str
) -> None:
    convert(files / "v1.pth", "lab2pix-v1-official", tmp_path / "out", label_space=str(files / "own4.yaml"))
    file = tmp_path / "out" / "config.json"
    description = json.loads(file.read_text())
    description["config"]["generator"]["official"] = network
    file.write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match=text):
        Synthesizer.load(tmp_path / "out", device="cpu")


@pytest.mark.slow
def test_converted_weights_are_saved_again_as_they_are(files: Path, tmp_path: Path) -> None:
    convert(files / "v1.pth", "lab2pix-v1-official", tmp_path / "one", label_space=str(files / "own4.yaml"))
    first = Synthesizer.load(tmp_path / "one", device="cpu")
    again = Synthesizer.load(first.save(tmp_path / "two"), device="cpu")
    ids = squares(4, (128, 256))[0]
    assert torch.equal(first(ids, seed=4).tensor, again(ids, seed=4).tensor)
