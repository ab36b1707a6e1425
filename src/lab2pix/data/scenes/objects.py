"""Objects of procedural scenes: trees, houses, rocks and boats, shaded on the side away from the sun."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lab2pix.data.scenes.backdrop import SceneContext
from lab2pix.data.scenes.canvas import CLASSES, Area, Floats, color, fbm, mix, smooth

LEAVES = (color(84, 138, 48), color(66, 120, 50), color(118, 148, 52), color(186, 132, 48))
WALLS = (color(242, 234, 216), color(238, 220, 180), color(226, 200, 160))
ROOFS = (color(186, 78, 54), color(172, 88, 62), color(140, 66, 54), color(98, 98, 112))
BARK = color(104, 78, 56)


def _place(
    world: SceneContext, foot: tuple[float, float], half: float, height: float
) -> tuple[Area, Floats, Floats] | None:
    """Return the area of an object and its local coordinates: x in -1..1 `[1, w]`, y from 0 (foot) to 1 `[h, 1]`."""
    across, down = foot
    area = world.canvas.area(down - height * 1.02, down + 0.02 * height, across - half * 1.05, across + half * 1.05)
    if area is None:
        return None
    return area, (area.x - np.float32(across)) / np.float32(half), (np.float32(down) - area.y) / np.float32(height)


def _shadow(world: SceneContext, foot: tuple[float, float], half: float, flat: float = 0.22) -> None:
    """Paint the ground shadow of an object, on the side away from the sun."""
    across, down = foot[0] - world.light * half * 0.7, foot[1]
    area = world.canvas.area(down - half * flat, down + half * flat, across - half * 1.3, across + half * 1.3)
    if area is None:
        return
    distance = np.hypot(
        (area.x - np.float32(across)) / np.float32(half * 1.3), (area.y - np.float32(down)) / (half * flat)
    )
    world.canvas.rgb[:, area.rows, area.columns] *= 1 - 0.45 * smooth(-distance, -1.0, -0.3)


def paint_conifer(world: SceneContext, foot: tuple[float, float], height: float, haze: float) -> None:
    """Paint a fir: tiers of branches around a short trunk."""
    tiers, half = int(world.rng.integers(5, 9)), height * world.between(0.2, 0.28)
    offset, tone = world.offset(), mix(color(44, 88, 56), color(74, 108, 52), world.between(0, 1))
    _shadow(world, foot, half)
    placed = _place(world, foot, half, height)
    if placed is None:
        return
    area, p, q = placed
    crown = np.clip((q - 0.08) / 0.92, 0, 1)
    step = (1 - crown) ** 0.9 * tiers
    tier = step - np.floor(step)
    texture = fbm(area.x, area.y, 9 / height, 3, offset)
    if height > 0.3:
        texture += 0.45 * fbm(area.x, area.y, 48, 2, offset + 7, stretch=0.6)
    width = (1 - crown) * (0.62 + 0.38 * tier) + 0.16 * texture * (1 - crown) + 0.02
    mask = (np.abs(p) < width) & (q > 0.08) & (q < 1)
    side = p / np.maximum(width, 0.05) * np.float32(world.light)
    lit = np.clip(0.42 + 0.42 * side + 0.35 * texture + 0.25 * (0.5 - tier), 0, 1)
    trunk = (np.abs(p) < 0.09) & (q >= 0) & (q <= 0.12)
    bark = world.palette.lit(BARK, np.clip(0.5 + 4 * p * np.float32(world.light), 0, 1) + 0 * q)
    world.canvas.paint(area, trunk, world.palette.hazy(bark, haze), "tree")
    world.canvas.paint(area, mask, world.palette.hazy(world.palette.lit(tone, lit), haze), "tree")


def paint_round_tree(world: SceneContext, foot: tuple[float, float], height: float, haze: float, season: int) -> None:
    """Paint a broad-leaved tree: a trunk, and clumps of leaves shaded as spheres.

    Args:
        world: the scene.
        foot: position (x, y) of the foot.
        height: height in image heights.
        haze: amount of haze, 0 to 1.
        season: index into `LEAVES`.
    """
    half = height * world.between(0.36, 0.48)
    lumps = world.rng.uniform(-1, 1, (8, 3)).astype(np.float32)
    offset, tone = world.offset(), LEAVES[season] * np.float32(world.between(0.85, 1.1))
    _shadow(world, foot, half)
    placed = _place(world, foot, half, height)
    if placed is None:
        return
    area, p, q = placed
    wide = np.float32(0.1) + 0.06 * np.clip(0.15 - q, 0, 1)
    trunk = (np.abs(p) < wide) & (q >= 0) & (q < 0.5)
    bark = world.palette.lit(BARK, np.clip(0.5 + 4 * p * np.float32(world.light), 0, 1) + 0 * q)
    world.canvas.paint(area, trunk, world.palette.hazy(bark, haze), "tree")
    best = np.full((q.size, p.size), -9, dtype=np.float32)
    lit = np.zeros_like(best)
    squash = np.float32(height / half)
    for index, (across, up, big) in enumerate(lumps):
        angle = index * 2.4
        x0 = 0.0 if index == 0 else 0.52 * np.cos(angle) + 0.1 * across
        y0 = 0.6 if index == 0 else 0.62 + 0.21 * np.sin(angle) + 0.04 * up
        radius = np.float32(0.62 if index == 0 else 0.4 + 0.08 * big)
        dx, dy = (p - np.float32(x0)) / radius, (q - np.float32(y0)) * squash / radius
        field = 1 - dx * dx - dy * dy
        glow = 0.45 + 0.34 * dx * np.float32(world.light) + 0.4 * dy
        front = field > best
        np.copyto(lit, glow, where=front)
        np.copyto(best, field, where=front)
    texture = fbm(area.x, area.y, 8 / height, 3 if height < 0.2 else 4, offset)
    texture += 0.5 * fbm(area.x, area.y, 60, 1, offset + 7) if height > 0.35 else 0
    lit = np.clip(lit + 0.48 * texture + 0.25 * (q - 0.6), 0, 1)
    rgb = world.palette.hazy(world.palette.lit(tone, lit), haze)
    world.canvas.paint(area, best + 0.5 * texture > 0.02, rgb, "tree")


def paint_house(world: SceneContext, foot: tuple[float, float], height: float, haze: float) -> None:
    """Paint a house seen from a corner: gable with door and window, long side with windows, pitched roof, chimney."""
    half = height * world.between(0.62, 0.85)
    wall, roof = WALLS[int(world.rng.integers(len(WALLS)))], ROOFS[int(world.rng.integers(len(ROOFS)))]
    turned = -1.0 if world.rng.random() < 0.5 else 1.0
    columns, offset = int(world.rng.integers(2, 4)), world.offset()
    _shadow(world, foot, half, 0.16)
    placed = _place(world, foot, half, height)
    if placed is None:
        return
    area, p, q = placed
    front_light = 0.95 if turned * world.light < 0 else 0.25
    texture = fbm(area.x, area.y, 14 / height, 2, offset)
    house = _House(world, area, (p * np.float32(turned) + 1) / 2, q, haze, texture, front_light, 1.15 - front_light)
    house.build(wall, roof)
    house.open(columns)


@dataclass(frozen=True)
class _House:
    """Painter of one house.

    Attributes:
        world: the scene.
        area: its rectangle.
        u: `[1, w]` x coordinates, 0 at the edge of the gable to 1 at the far end of the long side.
        q: `[h, 1]` y coordinates, 0 (foot) to 1.
        haze: amount of haze, 0 to 1.
        texture: `[h, w]` noise of the surfaces.
        front_light: sunlight on the gable, 0 to 1.
        side_light: sunlight on the long side, 0 to 1.
    """

    world: SceneContext
    area: Area
    u: Floats
    q: Floats
    haze: float
    texture: Floats
    front_light: float
    side_light: float

    def cover(self, mask: NDArray[np.bool_], tone: Floats, light: Floats | float, grain: float = 0.1) -> None:
        """Paint a surface of one color."""
        lit = self.world.palette.lit(tone, np.clip(light + grain * self.texture, 0, 1))
        self.world.canvas.paint(self.area, mask, self.world.palette.hazy(lit, self.haze), "house")

    def box(self, middle: float, bottom: float, half: float, high: float, *, tone: Floats, light: float) -> None:
        """Paint an upright rectangle."""
        mask = (np.abs(self.u - np.float32(middle)) < half) & (self.q > bottom) & (self.q < bottom + high)
        rgb = self.world.palette.hazy(self.world.palette.lit(tone, light), self.haze)
        self.world.canvas.paint(self.area, mask, np.broadcast_to(rgb, (3, *mask.shape)), "house")

    def build(self, wall: Floats, roof: Floats) -> None:
        """Paint chimney, walls and roof in the given colors."""
        u, q = self.u, self.q
        gable, eaves, ridge = np.float32(0.42), np.float32(0.5), np.float32(0.93)
        pitch = eaves + (ridge - eaves) * (1 - np.abs(u - gable / 2) / (gable / 2))
        rise = (q - eaves + 0.05) / (ridge - eaves + 0.05)
        edge = gable - gable / 2 * rise - 0.02
        top = (u >= edge) & (u < edge + 1.02 - gable) & (u < 1.0 - 0.1 * rise) & (rise >= 0) & (rise <= 1.05)
        side = (u >= gable) & (u < 0.98) & (q >= 0.05 * np.clip(u - gable, 0, 1)) & (q < eaves + 0.02)
        chimney = (np.abs(u - 0.62) < 0.045) & (q > 0.75) & (q < 1.0)
        self.cover(chimney, color(150, 92, 74), 0.5 * (self.front_light + self.side_light))
        self.cover((u >= 0.02) & (u < gable) & (q >= 0) & (q < pitch), wall, self.front_light)
        self.cover(side, wall, self.side_light)
        self.cover(top, roof, self.side_light + 0.05 + 0.12 * np.sin(rise * 34), 0.2)
        overhang = (np.abs(q - pitch - 0.02) < 0.035) & (u < gable) & (u > -0.01)
        self.cover(overhang, roof * np.float32(0.85), self.front_light)

    def open(self, columns: int) -> None:
        """Paint the door, two windows in the gable, and `columns` windows in the long side."""
        glass, door, frame = color(62, 78, 104), color(112, 70, 44), color(250, 248, 242)
        self.box(0.14, 0.0, 0.055, 0.3, tone=door, light=self.front_light)
        for middle, bottom, high in ((0.3, 0.16, 0.18), (0.21, 0.56, 0.14)):
            self.box(middle, bottom - 0.02, 0.062, high + 0.04, tone=frame, light=self.front_light)
            self.box(middle, bottom, 0.045, high, tone=glass, light=0.7)
        for number in range(columns):
            middle = 0.42 + 0.56 * (number + 0.5) / columns
            self.box(middle, 0.16, 0.075, 0.24, tone=frame, light=self.side_light)
            self.box(middle, 0.18, 0.057, 0.2, tone=glass, light=0.7)


def paint_rock(world: SceneContext, foot: tuple[float, float], height: float, haze: float) -> None:
    """Paint a boulder: a rough shape with facets, lit from above on the side of the sun."""
    half, offset = height * world.between(0.75, 1.15), world.offset()
    lean = world.between(-0.35, 0.35)
    _shadow(world, foot, half, 0.25)
    placed = _place(world, foot, half, height)
    if placed is None:
        return
    area, p, q = placed
    texture = fbm(area.x, area.y, 2.6 / height, 4, offset)
    rough = fbm(area.x, np.zeros(1, np.float32), 2.2 / height, 3, offset)
    profile = 1 - np.abs(p - np.float32(lean) * q) ** 2.4 + 0.26 * rough - 0.08
    mask = (q < profile) & (q >= 0) & (np.abs(p) < 0.98)
    lit = np.clip(0.3 + 0.45 * (p - np.float32(lean)) * np.float32(world.light) + 0.35 * q + 0.5 * texture, 0, 1)
    tone = mix(color(132, 122, 112), color(164, 150, 134), np.clip(0.5 + texture, 0, 1))
    world.canvas.paint(area, mask, world.palette.hazy(world.palette.lit(tone, lit), haze), "rock")


def paint_boat(world: SceneContext, foot: tuple[float, float], height: float, haze: float) -> None:
    """Paint a sailing boat with its reflection in the water."""
    half = height * 0.42
    turned = -1.0 if world.rng.random() < 0.5 else 1.0
    hull_tone = (color(168, 54, 44), color(52, 76, 130), color(236, 232, 222))[int(world.rng.integers(3))]
    placed = _place(world, foot, half, height)
    if placed is None:
        return
    area, p, q = placed
    u = p * np.float32(turned)
    hull = (q >= 0) & (q < 0.17 + 0.04 * u * u) & (np.abs(u) < 0.7 + 1.6 * q)
    mast = (np.abs(u - 0.05) < 0.035) & (q < 0.98) & (q > 0.1)
    main = (u < 0.0) & (u > -0.8 * (1 - (q - 0.22) / 0.74)) & (q > 0.22)
    jib = (u > 0.1) & (u < 0.1 + 0.72 * (1 - (q - 0.24) / 0.6)) & (q > 0.24)
    light = np.clip(0.75 + 0.35 * u * np.float32(turned * world.light), 0, 1) + 0 * q
    sail = color(252, 248, 238)
    parts = ((mast, color(110, 84, 60)), (hull, hull_tone), (main, sail), (jib, sail * np.float32(0.92)))
    rgb = np.zeros((3, *light.shape), dtype=np.float32)
    for mask, tone in parts:
        np.copyto(rgb, world.palette.hazy(world.palette.lit(tone, light), haze), where=mask)
    whole = hull | mast | main | jib
    _mirror(world, area, rgb, whole)
    world.canvas.paint(area, whole, rgb, "boat")


def _mirror(world: SceneContext, area: Area, rgb: Floats, mask: NDArray[np.bool_]) -> None:
    """Blend the reflection of an object, flipped and distorted, into the water below it."""
    top, height = area.rows.stop - 1, world.canvas.label.shape[0]
    count = min(mask.shape[0], height - top)
    if count <= 0:
        return
    below = Area(slice(top, top + count), area.columns, area.x, world.canvas.y[top : top + count])
    shake = (np.sin(np.arange(count) * 0.9) * np.linspace(0, 2.5, count)).astype(int)
    columns = np.clip(np.arange(mask.shape[1])[None] + shake[:, None], 0, mask.shape[1] - 1)
    rows = np.arange(mask.shape[0] - 1, mask.shape[0] - 1 - count, -1)[:, None]
    water = world.canvas.label[below.rows, below.columns] == CLASSES["water"]
    fade = np.linspace(0.6, 0.1, count, dtype=np.float32)[:, None]
    world.canvas.blend(below, rgb[:, rows, columns], (mask[rows, columns] & water) * fade)
