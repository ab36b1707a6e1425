"""Safe loading of checkpoints of other programs, and recognition of their format by weight names."""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from lab2pix.errors import CheckpointError, ConfigError, did_you_mean
from lab2pix.interop.conversion import CheckpointFormat
from lab2pix.utils.tensors import load_tensors

_OTHERS: list[tuple[str, tuple[str, ...]]] = [
    ("weights of lab2pix itself, which need no conversion", ("blocks.0.norm_0.shared.weight",)),
    ("weights of lab2pix itself, which need no conversion", ("networks.0.trunk.0.0.weight",)),
    ("a discriminator of the official Lab2Pix-V1", ("common.0.weight", "gcb1.0.weight")),
    ("weights of lab2pix itself, which need no conversion", ("enc_content.model.0.conv.weight",)),
    ("discriminators of MUNIT", ("a.cnns.0.0.conv.weight", "b.cnns.0.0.conv.weight")),
    ("a segmenter of the official Lab2Pix-V1", ("net_model1_1.0.weight",)),
    ("discriminators of the official Lab2Pix-V2", ("discriminator_0.common.0.0.weight",)),
    ("discriminators of SPADE", ("discriminator_0.model0.0.weight",)),
    ("a discriminator of CC-FPSE", ("enc5.0.0.weight", "embedding.weight")),
    ("a discriminator of OASIS, DP-GAN or USIS", ("body_down.0.conv1.0.weight", "layer_up_last.weight")),
    ("discriminators of Pix2PixHD", ("scale0_layer0.0.weight",)),
    ("an image encoder of SPADE", ("fc_mu.weight",)),
    ("an image encoder of the official Lab2Pix-V1", ("conv.0.weight", "fc.weight")),
    ("an encoder of instance features of Pix2PixHD", ("model.1.weight", "model.4.weight", "model.7.weight")),
]
"""Other networks found next to generators, and the weight names that identify them."""


_JUNK = (EOFError, RuntimeError, LookupError, TypeError, AttributeError, AssertionError, struct.error)
"""Exceptions of damaged pickles, other than pickle's own."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the weights of a `.pth` or `.safetensors` file without executing code.

    Returns:
        State dict without the prefix `module.` of DataParallel, in PyTorch's present form: batch norms have
        `num_batches_tracked`, spectral norms their vector `v`. State dicts of several networks in one file get their
        keys as prefixes.

    Raises:
        CheckpointError: the file is missing, unreadable, not a state dict, or would execute code.
        IndexError, RuntimeError: a spectral-norm weight has an invalid shape.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}; give a checkpoint such as latest_net_G.pth")
    try:
        held = load_tensors(path) if path.suffix == ".safetensors" else _flattened(path, _unpickle(path))
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); take another copy") from error
    if not isinstance(held, Mapping) or not held or not all(isinstance(value, Tensor) for value in held.values()):
        raise CheckpointError(f"{path} does not hold weights by name; give a checkpoint such as latest_net_G.pth")
    odd = next((name for name, value in held.items() if value.layout != torch.strided or value.is_complex()), None)
    if odd is not None:
        raise CheckpointError(f"{path} cannot be used: {odd} is not an array of real numbers; use another copy")
    return _modernized({str(name).removeprefix("module."): tensor for name, tensor in held.items()})


def _flattened(path: Path, held: object) -> object:
    """Return a dictionary of state dicts, one per network, as one state dict with the keys as prefixes."""
    if not isinstance(held, Mapping) or not held or not all(isinstance(part, Mapping) for part in held.values()):
        return held
    if any("param_groups" in part for part in held.values()):
        raise CheckpointError(
            f"{path} holds the state of optimizers; give the file of a generator, such as latest_net_G.pth or "
            "gen_01000000.pt"
        )
    return {f"{key}.{name}": value for key, part in held.items() for name, value in part.items()}


def _unpickle(path: Path) -> object:
    try:
        held: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if wanted := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{path} contains more than weights and was not loaded: it needs {wanted[1]}, which could execute "
                "anything; take a checkpoint from whom you trust, saved as a plain state dict"
            ) from error
        raise CheckpointError(f"{path} is not a PyTorch checkpoint, or is damaged; use another copy") from error
    except _JUNK as error:
        raise CheckpointError(f"{path} is not a PyTorch checkpoint, or is damaged; use another copy") from error
    return held


def _modernized(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add entries that older versions of PyTorch did not save, and drop redundant ones."""
    for name in [name for name in state if name.endswith(".running_mean")]:
        state.setdefault(f"{name.removesuffix('running_mean')}num_batches_tracked", torch.tensor(0))
    for original in [name for name in state if name.endswith(".weight_orig")]:
        name = original.removesuffix("_orig")
        divided = state.pop(name, None)
        if f"{name}_v" in state or f"{name}_u" not in state:
            continue
        # PyTorch before 1.1 saved the normalized weight instead of v. Any v with u W v = sigma reproduces it.
        weight, u = state[original].flatten(1).float(), state[f"{name}_u"].float()
        v = torch.mv(weight.t(), u)
        wanted = v.norm() if divided is None else weight.norm() / divided.float().norm()
        state[f"{name}_v"] = v * (wanted / v.square().sum())
    return state


def _recognized(state: Mapping[str, Tensor], formats: Mapping[str, CheckpointFormat]) -> str | None:
    """Return the format of a generator's weights, or a description of another known network, or None."""
    for name, known in formats.items():
        if known.matches(state):
            return name
    plain = {re.sub(r"(_orig|\.parametrizations\.weight\.original)$", "", name) for name in state}
    for what, names in _OTHERS:
        if all(name in plain or f"{name}_orig" in state for name in names):
            return what
    return None


def check_format(path: Path, state: Mapping[str, Tensor], name: str, formats: Mapping[str, CheckpointFormat]) -> None:
    """Check that a state dict has the given format.

    Raises:
        ConfigError: there is no such format.
        CheckpointError: the state dict has another format.
    """
    if name not in formats:
        raise ConfigError(f"no format of checkpoint is called '{name}'{did_you_mean(name, formats)}")
    if formats[name].matches(state):  # some generators of two formats are the same network
        return
    found = _recognized(state, formats)
    if found is None:
        raise CheckpointError(
            f"{path} holds no generator of format '{name}', but weights such as {next(iter(state))}; "
            "give the file of a generator, such as latest_net_G.pth"
        )
    named = f"a generator of format '{found}'" if found in formats else found
    way = f"say --from {found}" if found in formats else "give the file of a generator, such as latest_net_G.pth"
    if "itself" in found:
        way = "give them to generate as they are"
    raise CheckpointError(f"{path} is not of format '{name}': it holds {named}; {way}")
