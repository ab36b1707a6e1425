"""Locates, downloads, reads and writes exported models: safetensors weights and a JSON config, without pickle."""

from __future__ import annotations

import json
import logging
import re
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from lab2pix.config.schema import RunConfig
from lab2pix.errors import CheckpointError, OutputError
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import build_generator, read_config
from lab2pix.utils.files import atomic_write, expand_user
from lab2pix.utils.registry import model_folders, why_missing
from lab2pix.utils.tensors import load_tensors, save_tensors
from lab2pix.utils.text import reason_of

_LOG = logging.getLogger(__name__)

FORMAT = "lab2pix-2"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"

_SHIPPED = Path(str(resources.files("lab2pix"))) / "weights"
_HUB_NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


class ModelInfo(NamedTuple):
    """Metadata of exported weights, stored as `config.json`.

    Attributes:
        config: configuration of the training run.
        label_space: meaning of the class ids.
        step: number of optimizer steps trained.
    """

    config: RunConfig
    label_space: LabelSpace
    step: int

    def to_dict(self) -> dict[str, Any]:
        """Return the metadata as JSON-serializable values."""
        return {
            "format": FORMAT,
            "config": self.config.model_dump(mode="json"),
            "label_space": self.label_space.to_dict(),
            "step": self.step,
        }

    def build(self) -> nn.Module:
        """Build the described generator with random weights.

        Raises:
            CheckpointError: an architecture that this version does not support.
        """
        return build_generator(self.config, self.label_space)

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read `config.json`.

        Raises:
            CheckpointError: missing, damaged, or of another format.
            LabelError: inconsistent label space.
        """
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise CheckpointError(f"{file} is missing; copy it to the folder of the weights") from error
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read ({error}); take another copy") from error
        found = data.get("format") if isinstance(data, dict) else None
        if found != FORMAT:
            raise CheckpointError(
                f"{file} has format {found!r}, but this version of lab2pix reads '{FORMAT}'; export the weights again"
            )
        try:
            config = read_config(data["config"])
            label_space = LabelSpace.from_dict(data["label_space"], where=f"'label_space' of {file}")
            return cls(config, label_space, int(data.get("step", 0)))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, ("config", *first["loc"])))
            raise CheckpointError(
                f"{file} does not fit this version of lab2pix ('{key}': {first['msg']}); use the version that made it"
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{file} lacks or garbles {error}; take another copy") from error


def shipped_models() -> dict[str, Path]:
    """Return the weights files of installed models by name: of this package, and of packages with an entry point.

    The module of such a package (`model_folders`) holds `model.safetensors` and `config.json`. A name of this package
    cannot be replaced.
    """
    found = {
        name: folder / WEIGHTS_FILE
        for name, folders in model_folders().items()
        for folder in folders
        if (folder / WEIGHTS_FILE).is_file()
    }
    return found | {file.parent.name: file for file in sorted(_SHIPPED.glob(f"*/{WEIGHTS_FILE}"))}


def find(source: str | Path) -> Path | None:
    """Locate a weights file; return None if the source can only be a name on the Hugging Face hub.

    Args:
        source: a run folder (its newest checkpoint is used), a folder with `model.safetensors`, a `.safetensors` file,
            or the name of a bundled model. A folder of that name takes precedence if it holds a model.

    Raises:
        CheckpointError: nothing found, or not a model.
    """
    if not isinstance(source, str | Path):
        raise CheckpointError(
            f"a model must be a name, a path or a generator, not {source!r}; give one such as 'scenes'"
        )
    path = expand_user(source)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise CheckpointError(
                f"{path} is not a .safetensors file; give a run folder, a checkpoint folder or its {WEIGHTS_FILE}"
            )
        return path
    shipped = shipped_models()
    if str(source) in shipped and not _holds_model(path):
        return shipped[str(source)]
    if not _holds_model(path) and (reason := why_missing("model", str(source), WEIGHTS_FILE, model_folders())):
        raise CheckpointError(reason)
    if path.is_dir():
        return _find_in_folder(path)
    # A misspelled path must not trigger a download: `runs/mine` is a path if `runs` exists.
    if isinstance(source, str) and _HUB_NAME.fullmatch(source) and not path.parent.exists():
        return None
    installed = f"the name of an installed one ({', '.join(shipped)}), " if shipped else ""
    raise CheckpointError(
        f"there is no model {source}; give {installed}a run folder, a checkpoint folder, a {WEIGHTS_FILE} or a hub "
        "name such as org/name"
    )


def is_local(source: str | Path) -> bool:
    """Return whether a model that `find` locates is a run or a file of the user, not an installed or downloaded one."""
    file = find(source)
    return file is not None and file not in shipped_models().values()


def _holds_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (WEIGHTS_FILE, "config.yaml")) or any(folder.glob("step-*"))


def _find_in_folder(folder: Path) -> Path:
    if (folder / WEIGHTS_FILE).is_file():
        return folder / WEIGHTS_FILE
    for parent in (folder / "checkpoints", folder):
        steps = {int(path.name[5:]): path for path in parent.glob("step-*") if path.name[5:].isdecimal()}
        whole = [path for _, path in sorted(steps.items()) if (path / CONFIG_FILE).is_file()]
        if whole:
            return whole[-1] / WEIGHTS_FILE
    if (folder / "config.yaml").is_file():
        raise CheckpointError(f"{folder} is a run without a checkpoint so far; let it train until it has written one")
    raise CheckpointError(f"{folder} holds neither a run nor {WEIGHTS_FILE}; give a folder that does")


def fetch(
    name: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """Download a model from the Hugging Face hub (or its cache), and return the weights file.

    Raises:
        CheckpointError: unknown model, unreachable hub, or not a lab2pix model.
    """
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
            allow_patterns=[WEIGHTS_FILE, CONFIG_FILE],
        )
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"there is no folder {name}, the cache of the Hugging Face hub has no model of this name, and the hub was "
            "not reached; check the connection, or copy the model here"
        ) from error
    except Exception as error:  # client, transport and cache raise errors of their own
        raise CheckpointError(
            f"there is no folder {name}, and no model of this name came from the Hugging Face hub "
            f"({reason_of(error).partition('. ')[0].rstrip('.')}); check the spelling, or copy the model here"
        ) from error
    file = Path(folder) / WEIGHTS_FILE
    if not file.is_file():
        raise CheckpointError(f"{name} on the Hugging Face hub has no {WEIGHTS_FILE}; it is not a lab2pix model")
    return file


def read(file: Path) -> tuple[nn.Module, ModelInfo]:
    """Load a generator from a weights file, with the metadata in the same folder.

    Raises:
        CheckpointError: a file is missing or damaged, or weights and metadata do not match.
    """
    _LOG.info("reading weights %s", file)
    info = ModelInfo.read(file.with_name(CONFIG_FILE))
    try:
        tensors = load_tensors(file)
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is missing; take another checkpoint") from error
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); take another copy") from error
    with torch.random.fork_rng(devices=[]):  # loading must not advance the global RNG
        generator = info.build()
    try:
        generator.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"{file} has weights of another network than {CONFIG_FILE} in its folder describes; copy both from one "
            "checkpoint"
        ) from error
    return generator, info


def write(folder: Path, generator: nn.Module, info: ModelInfo, *, half: bool = False) -> None:
    """Write `model.safetensors` and `config.json`, each atomically.

    With `half`, floating-point weights are stored in float16.

    Raises:
        OutputError: the folder cannot be written, or a weight overflows float16.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in generator.state_dict().items()}
    if half:
        tensors = {name: _halved(name, tensor) for name, tensor in tensors.items()}
    try:
        with atomic_write(folder / WEIGHTS_FILE, folder / CONFIG_FILE) as (weights, config):
            save_tensors(tensors, weights)
            config.write_text(json.dumps(info.to_dict(), indent=2, ensure_ascii=False), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise OutputError(f"cannot write weights to {folder} ({error}); choose another folder") from error


def _halved(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    smaller = tensor.half()
    if not bool(smaller.isfinite().all()):
        raise OutputError(f"weight {name} is too large for float16; write the weights in float32")
    return smaller
