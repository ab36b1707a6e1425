"""Authors' checkpoints made into folders that `Synthesizer.load` and `lab2pix generate` take."""

from __future__ import annotations

from pathlib import Path

from lab2pix.errors import OutputError
from lab2pix.inference import weights
from lab2pix.inference.weights import ModelInfo
from lab2pix.interop.convert import ConversionOptions, Converted, convert_checkpoint

__all__ = ["convert"]


def convert(
    checkpoint: Path | str,
    form: str,
    out: Path | str,
    *,
    label_space: str | None = None,
    size: tuple[int, int] | None = None,
    doublings: int | None = None,
    instance_edges: bool | None = None,
) -> Converted:
    """Write `model.safetensors` and `config.json` of an authors' generator; it draws as it did.

    Args:
        checkpoint: `latest_net_G.pth` or the like, or `.safetensors`; nothing in it is executed.
        form: `lab2pix-v1-released`, `lab2pix-v2-released` or `spade`.
        out: an empty folder, or one to be made.
        label_space: a shipped name or a YAML file; None: the one shipped space that fits.
        size: height and width of the pictures; None: as is usual for the label space.
        doublings: how often the generator doubles its size, where the weights leave it open.
        instance_edges: whether it sees borders between instances, where the number of channels leaves it open.

    Returns:
        What was understood; printed, it tells the user.

    Raises:
        CheckpointError: the file cannot be read, is of another form, or its classes are not the label space's.
        ConfigError: no such form, or a size or doublings that the weights cannot have.
        LabelError: there is no such label space.
        OutputError: the folder holds something already, or cannot be written.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} exists and is not an empty folder; choose another one for the converted weights")
    converted = convert_checkpoint(
        Path(checkpoint), form, ConversionOptions(label_space, size, doublings, instance_edges)
    )
    info = ModelInfo(converted.config, converted.label_space, 0, converted.network)
    weights.write(out, converted.generator, info)
    return converted
