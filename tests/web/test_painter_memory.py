"""Pictures as large as are taken, in every form, are read in little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import io, json, os
from types import SimpleNamespace
import numpy as np
import torch
from PIL import Image
from lab2pix.labels.space import LabelSpace
from lab2pix.web.painter_pictures import open_picture, to_layout

torch.set_num_threads(1)
LARGE = 4000
spaces = {name: LabelSpace.load(name) for name in ("scenes", "sketch")}
colors = spaces["scenes"].palette.numpy()


def encode(picture, form="PNG", palette=None):
    out = io.BytesIO()
    image = Image.fromarray(picture)
    if palette is not None:
        image.putpalette(palette.tobytes())
    image.save(out, format=form)
    return out.getvalue()


def forms(side):
    ids = np.arange(64, dtype=np.uint8).reshape(8, 8).repeat(side // 8, 0).repeat(side // 8, 1) % 14
    gray = np.stack([ids, ids, ids, np.full_like(ids, 255)], 2)
    lines = np.where(np.arange(side) % 100 == 0, 0, 255).astype(np.uint8)[None].repeat(side, 0)
    return {
        "gray": (encode(ids), "file", "scenes"),
        "16 bits": (encode(ids.astype(np.uint16)), "file", "scenes"),
        "palette": (encode(ids, palette=colors), "file", "scenes"),
        "palette in another order": (encode(13 - ids, palette=colors[::-1].copy()), "file", "scenes"),
        "gray in three channels": (encode(gray[..., :3]), "file", "scenes"),
        "ids as a canvas writes them": (encode(gray), "ids", "scenes"),
        "colours": (encode(colors[ids]), "file", "scenes"),
        "colours, blurred": (encode(colors[ids], "JPEG"), "file", "scenes"),
        "drawing": (encode(lines), "file", "sketch"),
        "photo": (encode(colors[ids], "JPEG"), "file", "sketch"),
    }


def read(body, given, space):
    settings = SimpleNamespace(data=SimpleNamespace(sketch=SimpleNamespace(lines="auto", sigma=2.0)))
    drawer = SimpleNamespace(label_space=spaces[space], size=(256, 256), config=settings)
    kind = "image/jpeg" if body[:1] == b"\\xff" else "image/png"
    picture, lossy = open_picture(body, kind)
    return to_layout(picture, drawer, given, lossy=lossy)


def memory(what):
    status = open("/proc/self/status").read()
    return int(status.split(what + ":")[1].split()[0]) / 1024


small, large = forms(64), forms(LARGE)
for name in large:
    if os.fork() == 0:
        read(*small[name])  # or the libraries, which are in no child's memory at first, would be counted
        open("/proc/self/clear_refs", "w").write("5")  # forgets the peak so far
        before = memory("VmRSS")
        found = read(*large[name])
        right = name in ("drawing", "photo") or torch.equal(found[16::32, 16::32], torch.arange(64).view(8, 8) % 14)
        print(json.dumps([name, memory("VmHWM") - before, right]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="this system does not tell peaks of memory")
def test_the_largest_pictures_take_little_memory() -> None:
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}  # what is given back to the system is not there any more
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True, env=env)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 10
    print(*(f"{name}: {mebibytes:.0f} MiB" for name, mebibytes, _ in found), sep=", ")
    assert [name for name, _, right in found if not right] == []
    # Pillow alone takes 61 MiB for 16 million pixels in colours, and 15 for others.
    limits = {name: 110 if name in ("gray", "palette", "palette in another order") else 220 for name, _, _ in found}
    assert {name: mebibytes for name, mebibytes, _ in found if mebibytes > limits[name]} == {}
