"""Reader of Caffe's binary models (`.caffemodel`), a protocol buffer, without Caffe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lab2pix.errors import WeightsError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _Layer(NamedTuple):
    """Numbers of the fields of a kind of layer: its number in the network, and those of its name and weights."""

    number: int
    name: int
    blobs: int


_LAYERS = (_Layer(100, 1, 7), _Layer(2, 4, 6))
"""`LayerParameter`, and the older `V1LayerParameter`."""


def read_caffemodel(file: Path) -> dict[str, Tensor]:
    """Return the weights of a Caffe model: `NAME.weight` and `NAME.bias` of each layer that has some.

    Raises:
        WeightsError: the file cannot be read as a Caffe model.
    """
    try:
        found = dict(_weights(memoryview(file.read_bytes())))
    except (IndexError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{file} cannot be read as a Caffe model ({error}); fetch it again") from error
    if not found:
        raise WeightsError(f"{file} holds no layer with weights; give a Caffe model (.caffemodel)")
    return found


def _weights(net: memoryview) -> Iterator[tuple[str, Tensor]]:
    kinds = {kind.number: kind for kind in _LAYERS}
    for number, value in _fields(net):
        if number not in kinds or not isinstance(value, memoryview):
            continue
        layer = list(_fields(value))
        name = next((bytes(part).decode() for key, part in layer if key == kinds[number].name), "")
        blobs = [_blob(part) for key, part in layer if key == kinds[number].blobs and isinstance(part, memoryview)]
        yield from ((f"{name}.{kind}", blob) for kind, blob in zip(("weight", "bias"), blobs, strict=False))


def _blob(blob: memoryview) -> Tensor:
    """Return an array: field 5 has its values, field 7 its shape, or fields 1 to 4 in older files."""
    shape: list[int] = []
    old: dict[int, int] = {}
    parts = []
    for number, value in _fields(blob):
        if number == 7 and isinstance(value, memoryview):
            shape = [side for _, dims in _fields(value) for side in _packed(dims)]
        elif number == 5 and isinstance(value, memoryview):
            parts.append(torch.frombuffer(bytearray(value), dtype=torch.float32))
        elif number <= 4 and isinstance(value, int):
            old[number] = value
    values = torch.cat(parts)
    if not shape:
        shape = [old.get(number, 1) for number in range(1, 5)]
        if shape[:3] == [1, 1, 1]:
            shape = shape[3:]
    return values.view(shape)


def _packed(value: int | memoryview) -> list[int]:
    if isinstance(value, int):
        return [value]
    found, place = [], 0
    while place < len(value):
        side, place = _varint(value, place)
        found.append(side)
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the fields of a message: number, and a whole number or bytes."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == _VARINT:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            length, place = _varint(message, place)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"field of unknown kind {kind}")
        if place + length > len(message):
            raise ValueError("it ends early")
        yield key >> 3, message[place : place + length]
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
        if shift > 63:
            raise ValueError("a number is too long")
