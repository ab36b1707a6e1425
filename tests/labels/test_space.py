"""Label spaces: decoding, encoding and errors."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from lab2pix.errors import LabelError
from lab2pix.labels.colors import generate_colors
from lab2pix.labels.space import LabelClass, LabelSpace
from lab2pix.utils.registry import label_space_names

SPACE = LabelSpace(
    "three",
    (LabelClass("sky", (0, 0, 255)), LabelClass("car", (255, 0, 0), True), LabelClass("road", (90, 90, 90))),
    unknown_value=255,
)
SHIPPED = ["ade20k", "cityscapes", "coco-stuff", "facades", "sketch"]


def as_jpeg(rgb: Tensor, quality: int = 75, subsampling: int = 2) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(rgb.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)


def facade(seed: int, side: int = 256) -> Tensor:
    """A label map as the Facades set has them: a wall with rows of windows, sills, blinds, a shop and a door."""
    rng = random.Random(seed)
    ids = torch.zeros(side, side, dtype=torch.int64)
    ids[20:, 10:-10] = 1
    for y in range(30, side - 60, rng.randint(40, 55)):
        for x in range(20, side - 40, rng.randint(30, 45)):
            w, h = rng.randint(14, 22), rng.randint(18, 28)
            ids[y : y + h, x : x + w] = 2
            ids[y - 6 : y, x : x + w] = 4
            ids[y + h : y + h + 6, x : x + w] = rng.choice([5, 6])
    ids[-36:] = 11
    ids[-30:, 100:124] = 3
    return ids


def test_shipped_label_spaces_have_the_right_counts() -> None:
    expected = {
        "cityscapes": (35, 36, 255, 0),
        "coco-stuff": (182, 183, 255, 0),
        "ade20k": (150, 151, 0, 1),
        "facades": (12, 12, None, 1),
    }
    assert set(SHIPPED) <= set(label_space_names())
    for name, (classes, channels, unknown, offset) in expected.items():
        space = LabelSpace.load(name)
        found = (space.num_classes, space.num_channels, space.unknown_value, space.file_offset)
        assert found == (classes, channels, unknown, offset), name
        assert space.name == name


def test_background_ids_are_the_published_ones() -> None:
    def ids(text: str) -> set[int]:
        parts = [part.partition("-") for part in text.split()]
        return {value for low, _, high in parts for value in range(int(low), int(high or low) + 1)}

    published = {
        "cityscapes": "0-11 14 15 16 21 23",
        "coco-stuff": "114-118 124 126-128 135 136 144 145 147-149 151 154 155 157-162 164 169-178 182",
        "ade20k": "0-6 9 11 13 16 17 21 25 26 29 32 46 48 51 52 54 60 61 68 69 81 91 94 101 128",
        "facades": "0 1",
    }
    for name, text in published.items():
        assert set(LabelSpace.load(name).background_ids) == ids(text), name


def test_label_space_names_are_at_their_ids() -> None:
    city, coco, ade, facades = (LabelSpace.load(n).names for n in ("cityscapes", "coco-stuff", "ade20k", "facades"))
    assert (city[7], city[11], city[26], city[33]) == ("road", "building", "car", "bicycle")
    assert (coco[0], coco[11], coco[90], coco[91], coco[181]) == (
        *("person", "street sign", "hair brush", "banner", "wood"),
    )
    assert (coco[123], coco[156], coco[168]) == ("grass", "sky-other", "tree")
    assert (ade[0], ade[2], ade[12], ade[20], ade[149]) == ("wall", "sky", "person", "car", "flag")
    assert facades[2] == "window" and facades[11] == "shop"


def test_cityscapes_evaluation_ids() -> None:
    space = LabelSpace.load("cityscapes")
    assert space.evaluation is not None
    scored = {space.names[i]: value for i, value in enumerate(space.evaluation) if value is not None}
    assert sorted(scored.values()) == list(range(19))
    assert (scored["road"], scored["sky"], scored["train"], scored["bicycle"]) == (0, 10, 16, 18)


@pytest.mark.parametrize("name", SHIPPED)
def test_label_space_encodings_round_trip(name: str) -> None:
    space = LabelSpace.load(name)
    ids = torch.arange(space.num_channels).repeat(4, 1)
    assert torch.equal(space.decode_ids(space.encode_values(ids), "map"), ids)
    assert torch.equal(space.one_hot(ids[None]).argmax(1)[0], ids)
    assert LabelSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space
    if not space.file_colors:  # generated colors stand for no class in files
        with pytest.raises(LabelError, match="gives no colors"):
            space.decode_colors(space.to_colors(ids), "map")
        return
    back = space.decode_colors(space.to_colors(ids), "map")
    assert torch.equal(space.to_colors(back), space.to_colors(ids))
    if name != "cityscapes":  # several of its classes share a colour
        assert torch.equal(back, ids)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 3))
def test_any_label_map_round_trips(values: list[int], rows: int) -> None:
    ids = torch.tensor([values] * rows)
    assert torch.equal(SPACE.decode_ids(SPACE.encode_values(ids), "map"), ids)
    assert torch.equal(SPACE.decode_colors(SPACE.to_colors(ids), "map"), ids)
    assert torch.equal(SPACE.one_hot(ids[None]).argmax(1)[0], ids)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_decode_ids_accepts_any_integer_type(dtype: torch.dtype) -> None:
    values = torch.tensor([[0, 1], [2, 1]], dtype=dtype)
    assert SPACE.decode_ids(values, "map").dtype == torch.int64
    assert SPACE.decode_ids(values, "map").tolist() == [[0, 1], [2, 1]]


def test_unknown_label_is_255_or_minus_one() -> None:
    assert SPACE.decode_ids(torch.tensor([[255, -1, 2]]), "map").tolist() == [[3, 3, 2]]
    assert LabelSpace.load("ade20k").decode_ids(torch.tensor([[0, 1, 150]]), "map").tolist() == [[150, 0, 149]]


@pytest.mark.parametrize(
    ("space", "values"), [(SPACE, [0, 3]), (SPACE, [70000]), (SPACE, [-2]), (LabelSpace.load("facades"), [0, -1])]
)
def test_decode_ids_names_ids_out_of_range(space: LabelSpace, values: list[int]) -> None:
    with pytest.raises(LabelError, match="street") as caught:
        space.decode_ids(torch.tensor([values]), "street.png")
    assert str(values[-1]) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_decode_ids_lists_only_the_first_wrong_ids() -> None:
    with pytest.raises(LabelError, match=r"10, 11, 12, 13, 14, 15, 16, 17, \.\.\., but label space 'three' has 0 to 2"):
        SPACE.decode_ids(torch.arange(10, 100)[None], "map")


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.integers(75, 95), st.sampled_from([0, 2]))
def test_jpeg_noise_does_not_change_classes(seed: int, quality: int, subsampling: int) -> None:
    space, ids = LabelSpace.load("facades"), facade(seed)
    decoded = space.decode_colors(as_jpeg(space.to_colors(ids), quality, subsampling), "map")
    assert (decoded == ids).float().mean() > 0.95
    numbers = ids[None, None].float()
    inner = (F.max_pool2d(numbers, 7, 1, 3) == -F.max_pool2d(-numbers, 7, 1, 3))[0, 0]
    assert (decoded[inner] == ids[inner]).float().mean() > 0.998  # what is lost is lost at the seams


def test_jpeg_of_wrong_colors_is_refused() -> None:
    space, rgb = LabelSpace.load("facades"), LabelSpace.load("facades").to_colors(facade(1))
    rgb[:, 100:130, 40:80] = torch.tensor([255, 0, 255], dtype=torch.uint8)[:, None, None]
    with pytest.raises(LabelError, match=r"wall.jpg has colors .* such as \(2\d\d, \d, 2\d\d\), in \d\.\d% of its"):
        space.decode_colors(as_jpeg(rgb), "wall.jpg")


@pytest.mark.slow
@pytest.mark.parametrize("band", [1, 700, 4000])
@pytest.mark.parametrize("shape", [(96, 128), (96, 7)])
def test_decode_colors_reads_large_maps_in_row_chunks(
    monkeypatch: pytest.MonkeyPatch, band: int, shape: tuple[int, int]
) -> None:
    space = LabelSpace.load("facades")
    rgb = as_jpeg(space.to_colors(facade(1, 128)[-shape[0] :, -shape[1] :]))
    ids, values = space.decode_colors(rgb, "map"), space.encode_values(facade(1))
    for module in ("labels.colors", "labels.space"):
        monkeypatch.setattr(f"lab2pix.{module}.BAND", band)
    assert torch.equal(space.decode_colors(rgb, "map"), ids)
    small = space.decode_colors(rgb, "map", dtype=torch.uint8)
    assert small.dtype == torch.uint8 and torch.equal(small.long(), ids)
    assert torch.equal(space.decode_ids(values, "map", dtype=torch.uint8), facade(1).byte())
    values[::50] = 77
    values[-1] = 99
    with pytest.raises(LabelError, match="holds ids 77, 99, but"):
        space.decode_ids(values, "map", dtype=torch.uint8)


def test_decode_colors_finds_strays_across_row_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    space = LabelSpace.load("facades")
    rgb = space.to_colors(facade(1, 128))
    rgb[:, 60:69, 60:69] = torch.tensor([255, 0, 255], dtype=torch.uint8)[:, None, None]
    rgb[:, 0] = torch.arange(128, dtype=torch.uint8)  # more colours than a map without blur has
    for band in (128, 128 * 5, 2**20):
        monkeypatch.setattr("lab2pix.labels.colors.BAND", band)
        with pytest.raises(LabelError, match=r"such as \(255, 0, 255\), in"):
            space.decode_colors(rgb, "map")


def test_decode_colors_refuses_one_wrong_pixel_of_a_clean_map() -> None:
    rgb = SPACE.to_colors(torch.zeros(16, 16, dtype=torch.int64))
    rgb[:, 3, 3] = torch.tensor([0, 200, 0], dtype=torch.uint8)
    with pytest.raises(LabelError, match=r"\(0, 200, 0\), in 0\.4% of its pixels"):
        SPACE.decode_colors(rgb, "map")


@pytest.mark.parametrize("name", ["facades", "landscapes", "cityscapes"])
def test_decode_colors_refuses_a_photo(name: str) -> None:
    ramp = torch.linspace(0, 255, 96).expand(96, 96)
    noise = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0)) * 60 - 30
    photo = (torch.stack([ramp, ramp.T, 255 - ramp]) + noise).clamp(0, 255).to(torch.uint8)
    with pytest.raises(LabelError, match="colors that are not in"):
        LabelSpace.load(name).decode_colors(photo, "photo.jpg")


def test_foreground_follows_background_ids() -> None:
    ids = torch.tensor([[0, 1, 2, 3]])
    assert SPACE.background_ids == (0, 2, 3)
    assert SPACE.foreground(ids).tolist() == [[False, True, False, False]]
    assert SPACE.foreground(ids, background_ids=[0, 1]).tolist() == [[False, False, True, True]]
    assert SPACE.foreground(ids, background_ids=[3]).tolist() == [[True, True, True, False]]
    assert SPACE.foreground(ids, background_ids=[]).all()
    with pytest.raises(LabelError, match="Background id 99 is invalid; ids are 0 to 3 in label space 'three'"):
        SPACE.foreground(ids, background_ids=[3, 99])
    assert LabelSpace.load("ade20k").foreground(torch.tensor([150])).item() is True


def test_to_colors_and_one_hot_have_the_right_shapes() -> None:
    ids = torch.zeros(2, 5, 7, dtype=torch.int64)
    assert SPACE.to_colors(ids).shape == (2, 3, 5, 7)
    assert SPACE.to_colors(ids[0]).shape == (3, 5, 7)
    one_hot = SPACE.one_hot(ids)
    assert one_hot.shape == (2, 4, 5, 7) and one_hot.dtype == torch.float32
    assert torch.equal(one_hot.sum(dim=1), torch.ones(2, 5, 7))


def test_fingerprint_changes_with_what_networks_see() -> None:
    base = SPACE.fingerprint()
    recolored = LabelSpace.from_dict({**SPACE.to_dict(), "name": "other", "file_offset": 1, "unknown_value": 0})
    assert recolored.fingerprint() == base
    assert LabelSpace.from_dict({**SPACE.to_dict(), "unknown_value": None}).fingerprint() != base
    assert LabelSpace("two", SPACE.classes[:2], unknown_value=255).fingerprint() != base


def test_generated_colors_are_distinct_and_stable() -> None:
    colors = generate_colors(182)
    assert colors == generate_colors(182) and generate_colors(5) == colors[:5]
    points = torch.tensor([(0, 0, 0), *colors]).float()
    assert (torch.cdist(points, points) + 999 * torch.eye(183)).min() > 30


def test_label_space_loads_from_a_yaml_file(tmp_path: Path) -> None:
    path = tmp_path / "garden.yaml"
    path.write_text("unknown_value: 9\nclasses: [lawn, {name: gnome, color: [255, 0, 0], foreground: true}]\n")
    space = LabelSpace.load(path)
    assert (space.name, space.names, space.unknown_value) == ("garden", ("lawn", "gnome"), 9)
    assert space.classes[0].color == generate_colors(1)[0]
    assert LabelSpace.load(str(path)) == space


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"classes": []}, "has no classes"),
        ({"classes": ["a", "a"]}, "names 'a' twice"),
        ({"classes": ["a"], "ofset": 1}, "unknown key 'ofset'; did you mean"),
        ({"classes": ["a", {"name": "b", "color": [1, 2]}]}, r"classes\[1\]: 'color' must be three numbers"),
        ({"classes": [{"name": "b", "color": [1, 2, 256]}]}, "from 0 to 255"),
        ({"classes": [{"name": 3}]}, "'name' must be of type str"),
        ({"classes": [{"name": "b", "foreground": "yes"}]}, "'foreground' must be of type bool"),
        ({"classes": "a"}, "'classes' must be of type list"),
        ({"classes": ["a"], "unknown_value": 0}, "both for unknown and for class 'a'"),
        ({"classes": ["a"], "file_offset": -1}, "must be 0 to 65535"),
        ({"classes": ["a"], "file_offset": 10**11}, "must be 0 to 65535"),
        ({"classes": ["a"], "unknown_value": -5}, "unknown -5; it must be -1 to 65535"),
        ({"classes": ["a"], "unknown_value": 10**11}, "must be -1 to 65535"),
        (["a"], "expected a mapping"),
    ],
)
def test_label_space_file_mistakes_are_named(tmp_path: Path, data: object, words: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(LabelError, match=words):
        LabelSpace.load(path)


def test_missing_and_broken_label_space_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="did you mean 'cityscapes'"):
        LabelSpace.load("cityscape")
    with pytest.raises(LabelError, match="Cannot read the label space"):
        LabelSpace.load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("classes: [")
    with pytest.raises(LabelError, match="not valid YAML") as caught:
        LabelSpace.load(tmp_path / "bad.yaml")
    assert "\n" not in str(caught.value)
