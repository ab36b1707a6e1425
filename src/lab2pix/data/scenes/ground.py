"""Ground of procedural scenes: meadows, water with reflections, beaches, roads and flowers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lab2pix.data.scenes.backdrop import SceneContext
from lab2pix.data.scenes.canvas import CLASSES, Area, Floats, color, fbm, ground_noise, mix, smooth

NEAR_HAZE = 0.42
FLOWER_TONES = (
    color(222, 48, 42),
    color(246, 204, 44),
    color(232, 104, 178),
    color(150, 92, 205),
    color(246, 244, 236),
)


@dataclass(frozen=True)
class Shore:
    """Outline of the water.

    Attributes:
        level: y of the near edge at the center, 0 (top) to 1.
        tilt: difference in y between the right and the left end of the near edge.
        bays: depth of the bays.
        offset: noise offset of the bays.
        far: y of the far edge.
        sand: width of the beach along the near edge; 0: none.
    """

    level: float
    tilt: float
    bays: float
    offset: float
    far: float
    sand: float

    def near(self, x: Floats, aspect: float) -> Floats:
        """Return y of the near edge at x coordinates `[w]`."""
        bay = fbm(x, np.zeros(1, np.float32), 3.1, 3, self.offset)[0]
        edge: Floats = np.maximum(
            np.float32(self.level) + np.float32(self.tilt) * (np.ravel(x) / aspect - 0.5) + np.float32(self.bays) * bay,
            np.float32(self.far + 0.005),
        ).astype(np.float32)
        return edge


@dataclass(frozen=True)
class Road:
    """Road from the horizon to the lower edge: x at both ends, bend and width."""

    start: float
    end: float
    bend: float
    width: float
    offset: float

    def middle(self, depth: Floats) -> Floats:
        """Return x of the center line at `depth`, 0 (horizon) to 1 (lower edge)."""
        straight = self.start + (self.end - self.start) * depth
        place: Floats = straight + self.bend * np.sin(np.pi * np.sqrt(depth)) * (1 - depth)
        return place.astype(np.float32)


def _haze(depth: Floats) -> Floats:
    """Return the amount of haze of the ground at `depth` below the horizon."""
    result: Floats = np.float32(NEAR_HAZE) * np.exp(-depth * np.float32(14))
    return result


def _finest(world: SceneContext) -> float:
    """Return the Nyquist limit of noise on the canvas, in cells per image height."""
    return world.canvas.label.shape[0] / 2.0


def paint_meadow(world: SceneContext) -> None:
    """Paint grass from the horizon to the lower edge: patches and blades, paler with distance."""
    canvas = world.canvas
    offset, dry = world.offset(), world.between(0, 0.45)
    area = canvas.below(world.horizon)
    depth = np.maximum(area.y - np.float32(world.horizon), 1e-3)
    patches = ground_noise(area.x, depth, 1.6, offset, stretch=2.5, finest=_finest(world))
    blades = ground_noise(area.x, depth, 12, offset + 3, stretch=1.0, finest=_finest(world))
    blades += 0.8 * ground_noise(area.x, depth, 34, offset + 71, stretch=0.6, finest=_finest(world))
    rgb = mix(color(92, 142, 48), color(150, 165, 68), np.clip(dry + 0.5 * patches, 0, 1))
    lit = np.clip(0.7 + 0.24 * patches + 0.26 * blades, 0, 1)
    rgb = world.palette.hazy(world.palette.lit(rgb, lit), _haze(depth))
    canvas.paint(area, np.ones((1, 1), dtype=bool), rgb, "grass")


def _mirror(world: SceneContext, far: float, area: Area, waves: Floats) -> Floats:
    """Return the reflection in an area of water, `[3, h, w]`: the image above its `far` edge, distorted by waves."""
    height, width = world.canvas.label.shape
    away = area.y - np.float32(far)
    source = np.float32(far) - away * np.float32(0.95) + waves * (0.006 + 0.11 * away)
    row = np.clip(source * height, 0, max(area.rows.start - 1, 0)).astype(np.int32)
    column = np.clip((area.x + waves * (0.05 * away)) * height, 0, width - 1).astype(np.int32)
    mirror: Floats = world.canvas.rgb.reshape(3, -1).take(row * width + column, axis=1)
    return mirror


def paint_water(world: SceneContext, shore: Shore, sunny: bool) -> None:
    """Paint water with reflections, ripples, sun glitter, and foam along a beach."""
    canvas, palette = world.canvas, world.palette
    offset = world.offset()
    edge = shore.near(canvas.x, canvas.aspect)[None]
    area = canvas.area(shore.far, min(float(edge.max()), 1.0))
    if area is None:
        return
    mask = area.y < edge
    depth = np.maximum(area.y - np.float32(world.horizon), 2e-3)
    away = area.y - np.float32(shore.far)
    ripple = ground_noise(area.x, depth, 5, offset, stretch=3.5, finest=_finest(world))
    finer = ground_noise(area.x, depth, 14, offset + 7, stretch=4.0, finest=_finest(world))
    waves = ripple + 0.6 * finer
    mirror = _mirror(world, shore.far, area, waves)
    share = 0.78 - 0.45 * smooth(away, 0.0, 0.5) - 0.12 * waves
    tone: Floats = palette.water
    if shore.sand:
        tone = mix(tone, color(70, 170, 175) * palette.light, 0.75 * smooth(area.y - edge, -0.14, 0.0))
    rgb: Floats = mix(tone, mirror, share) + 0.05 * waves
    if sunny:
        beam = np.exp(-(((area.x - np.float32(world.sun[0])) / (0.035 + 0.22 * away)) ** 2))
        rgb = mix(rgb, palette.glow, beam * smooth(waves + 0.25 * beam, 0.1, 0.55) * 0.85)
    canvas.paint(area, mask, rgb, "water")
    if shore.sand:
        foam = smooth(area.y - edge + 0.008 * waves, -0.016, -0.004) * mask
        canvas.blend(area, color(245, 248, 250) * np.minimum(palette.light, 1), 0.8 * foam)


def paint_sand(world: SceneContext, shore: Shore) -> None:
    """Paint the beach along the near edge of the water, darker where it is wet."""
    canvas = world.canvas
    offset = world.offset()
    area = canvas.below(shore.far)
    depth = np.maximum(area.y - np.float32(world.horizon), 2e-3)
    edge = shore.near(area.x, canvas.aspect)[None]
    patches = ground_noise(area.x, depth, 2.2, offset, stretch=3.5, finest=_finest(world))
    grains = ground_noise(area.x, depth, 34, offset + 5, stretch=1.2, finest=_finest(world))
    beyond = area.y - edge
    end = np.float32(shore.sand) * (0.35 + 1.3 * depth) + 0.03 * patches
    wet = 1 - smooth(beyond + 0.02 * patches, 0.0, 0.05)
    tone = mix(color(236, 210, 158), color(176, 148, 108), 0.75 * wet)
    lit = np.clip(0.8 + 0.22 * patches + 0.16 * grains, 0, 1)
    rgb = world.palette.hazy(world.palette.lit(tone, lit), _haze(depth))
    canvas.paint(area, (beyond >= 0) & (beyond < end), rgb, "sand")


def paint_road(world: SceneContext, road: Road) -> None:
    """Paint an asphalt road with a dashed center line and pale edges."""
    canvas = world.canvas
    area = canvas.below(world.horizon + 0.004)
    depth = (area.y - np.float32(world.horizon)) / np.float32(1 - world.horizon)
    ground = depth >= 0  # at low resolution the pixel centers of the first row can be above the horizon
    depth = np.maximum(depth, 0)
    half = np.float32(road.width) * depth + 0.002
    across = (area.x - road.middle(depth)) / half
    noise = ground_noise(area.x, np.maximum(depth * 0.5, 2e-3), 10, road.offset, stretch=1.5, finest=_finest(world))
    tone = color(104, 102, 108) * np.ones_like(across)
    dashes = np.sin(np.log2(np.maximum(depth, 1e-3)) * 16 + 3.0 * road.offset) > -0.1
    lines = (np.abs(across) < 0.045) & dashes | (np.abs(np.abs(across) - 0.88) < 0.04)
    tone = mix(tone, color(238, 234, 218), lines.astype(np.float32))
    lit = np.clip(0.75 + 0.25 * noise - 0.15 * np.abs(across), 0, 1)
    rgb = world.palette.hazy(world.palette.lit(tone, lit), _haze(depth * (1 - world.horizon)))
    verge = smooth(-np.abs(across), -1.25, -1.0)
    canvas.blend(area, world.palette.lit(color(150, 135, 95), 0.6), 0.6 * verge * ground)
    canvas.paint(area, (np.abs(across) < 1) & ground, rgb, "road")


def paint_flowers(world: SceneContext, amount: float) -> None:
    """Paint flower beds in the foreground: dots of one or two colors on the grass.

    Args:
        world: the scene, with its meadow already painted.
        amount: fraction of the foreground grass to cover, 0 to 1.
    """
    canvas = world.canvas
    offset = world.offset()
    first, second = world.rng.choice(len(FLOWER_TONES), 2, replace=False)
    area = canvas.below(world.horizon + 0.1)
    depth = area.y - np.float32(world.horizon)
    beds = ground_noise(area.x, depth, 0.9, offset, stretch=3.0, finest=_finest(world))
    beds += np.clip(depth - 0.25, -0.2, 0.2)
    grass = canvas.label[area.rows, area.columns] == CLASSES["grass"]
    mask = grass & (beds > 0.45 - 0.75 * amount)
    dots = ground_noise(area.x, depth, 30, offset + 11, stretch=1.0, finest=_finest(world))
    other = ground_noise(area.x, depth, 7, offset + 23, stretch=1.6, finest=_finest(world))
    petals = mix(FLOWER_TONES[first], FLOWER_TONES[second], (other > 0.12).astype(np.float32))
    leaves = mix(color(58, 112, 38), color(104, 150, 52), np.clip(0.5 + other, 0, 1))
    tone = mix(leaves, petals, smooth(dots, -0.06, 0.2))
    rgb = world.palette.hazy(world.palette.lit(tone, np.clip(0.85 + 0.3 * dots, 0, 1)), _haze(depth))
    canvas.paint(area, mask, rgb, "flower")
