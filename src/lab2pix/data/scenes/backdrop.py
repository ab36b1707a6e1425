"""Background of procedural scenes: sky, sun, clouds, mountains, and forests on the horizon."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lab2pix.data.scenes.canvas import Canvas, Floats, color, fbm, mix, smooth
from lab2pix.data.scenes.light import Palette

ROCK_TONE = color(138, 128, 128)
MEADOW_TONE = color(112, 146, 72)
SNOW_TONE = color(246, 249, 255)


@dataclass(frozen=True)
class SceneContext:
    """State shared by all parts of one scene.

    Attributes:
        canvas: canvas to paint on.
        rng: random generator of the scene; the number of calls never depends on the resolution.
        palette: colors of the light.
        horizon: height of the horizon, 0 (top) to 1.
        sun: position (x, y) of the sun, which lights one side even if it is hidden.
        unit: scale of objects, 1 unless the image is narrower than high.
    """

    canvas: Canvas
    rng: np.random.Generator
    palette: Palette
    horizon: float
    sun: tuple[float, float]
    unit: float

    @property
    def light(self) -> float:
        """Return the side of the sun: -1 left, 1 right."""
        return 1.0 if self.sun[0] > self.canvas.aspect / 2 else -1.0

    def offset(self) -> float:
        """Return a random noise offset."""
        return float(self.rng.uniform(0, 400))

    def between(self, low: float, high: float) -> float:
        """Return a uniform random number in [low, high)."""
        return float(self.rng.uniform(low, high))


def paint_sky(world: SceneContext) -> None:
    """Paint the sky: a gradient from zenith to horizon, brighter around the sun."""
    canvas, palette = world.canvas, world.palette
    area = canvas.area(0, min(world.horizon + 0.02, 1))
    if area is None:
        return
    height = np.clip(1 - area.y / np.float32(world.horizon), 0, 1)
    rgb = mix(palette.horizon, palette.zenith, height**0.75)
    distance = np.hypot(area.x - np.float32(world.sun[0]), (area.y - np.float32(world.sun[1])) * np.float32(1.3))
    canvas.rgb[:, area.rows, area.columns] = mix(rgb, palette.glow, 0.6 * np.exp(-distance * np.float32(5.5)))


def paint_sun(world: SceneContext) -> None:
    """Paint the sun's disc with its halo."""
    radius = world.between(0.042, 0.062) * world.unit
    across, down = world.sun
    area = world.canvas.area(down - 4 * radius, down + 4 * radius, across - 4 * radius, across + 4 * radius)
    if area is None:
        return
    distance = np.hypot(area.x - np.float32(across), area.y - np.float32(down)) / np.float32(radius)
    world.canvas.blend(area, world.palette.glow, 0.55 * smooth(-distance, -4, -0.9))
    disc = mix(color(255, 255, 240), world.palette.glow, np.clip(distance, 0, 1) * 0.6)
    world.canvas.paint(area, distance < 1, np.broadcast_to(disc, (3, *distance.shape)), "sun")


def paint_clouds(world: SceneContext, count: int) -> None:
    """Paint cumulus clouds: puffs on a flat base, bright toward the sun, gray below."""
    for _ in range(count):
        across = world.between(0, 1) * world.canvas.aspect
        down = world.between(0.06, 0.62) * world.horizon
        nearness = 1 - down / world.horizon
        width = world.between(0.13, 0.3) * (0.4 + 0.8 * nearness) * world.unit
        puffs = world.rng.uniform(0, 1, (9, 3)).astype(np.float32)
        _paint_cloud(world, (across, down), width, puffs, world.offset())


def _paint_cloud(world: SceneContext, place: tuple[float, float], width: float, puffs: Floats, offset: float) -> None:
    """Paint one cloud of half width `width` with its base at `place`."""
    across, down = place
    area = world.canvas.area(down - 0.85 * width, down + 0.2 * width, across - 1.35 * width, across + 1.35 * width)
    if area is None:
        return
    x, y = (area.x - np.float32(across)) / np.float32(width), (area.y - np.float32(down)) / np.float32(width)
    field = np.full((y.size, x.size), -9, dtype=np.float32)
    for index, (where, how_high, how_big) in enumerate(puffs):
        middle = -0.95 + 1.9 * (index + 0.5 * where) / len(puffs)
        arch = 1 - middle * middle
        radius = 0.2 + 0.22 * how_big * arch + 0.1 * arch
        rise = -0.3 * how_high * arch - 0.08
        puff = 1 - ((x - np.float32(middle)) ** 2 + (y - np.float32(rise)) ** 2) / np.float32(radius**2)
        np.maximum(field, puff, out=field)
    texture = fbm(area.x, area.y, 2.2 / width, 4, offset, stretch=1.3)
    field += 0.42 * texture - np.maximum(y - 0.02, 0) * 9
    alpha = smooth(field, -0.12, 0.35)
    height = np.clip(-y / 0.5, 0, 1)
    lit = np.clip(0.35 + 0.7 * height + 0.2 * np.float32(world.light) * x + 0.28 * texture, 0, 1)
    gray = mix(world.palette.shade, world.palette.horizon, 0.55)
    rgb = mix(gray, np.minimum(world.palette.light, 1.0), lit)
    mask = alpha > 0.45
    canvas = world.canvas
    canvas.blend(area, rgb, alpha)
    canvas.paint(area, mask, canvas.rgb[:, area.rows, area.columns], "cloud")


def paint_mountains(world: SceneContext, haze: float, height: float, snow_line: float | None) -> None:
    """Paint a mountain range: peaks lit from one side, gullies, haze at the foot, snow above a line.

    Args:
        world: the scene.
        haze: amount of haze, 0 to 1.
        height: height of the highest peak above the horizon, in image heights.
        snow_line: start of the snow, as a fraction of `height`; None: no snow.
    """
    canvas = world.canvas
    count = int(world.rng.integers(4, 7))
    spread = (np.arange(count) + world.rng.uniform(0.1, 0.9, count)) / count
    places = (spread * 1.3 - 0.15) * canvas.aspect
    tops = height * world.rng.uniform(0.5, 1.0, count)
    tops[int(world.rng.integers(1, count - 1))] = height
    slopes = world.rng.uniform(0.55, 1.0, count)
    offset = world.offset()
    area = canvas.area(world.horizon - height * 1.12, world.horizon + 0.02)
    if area is None:
        return
    x = area.x
    cones = (tops[:, None] - slopes[:, None] * np.abs(x - places[:, None])).astype(np.float32)
    owner = cones.argmax(axis=0)
    rough = fbm(x, np.zeros(1, np.float32), 7, 6, offset)[0]
    profile = np.maximum(cones.max(axis=0), 0.25 * height) + np.float32(0.14 * height) * (rough - 0.25)
    altitude = np.float32(world.horizon) - area.y
    mask = altitude < profile
    below = tops[owner].astype(np.float32)[None] - altitude
    texture = fbm(x, area.y, 9, 5, offset + 50, stretch=0.7)
    crest = (x - places[owner].astype(np.float32)[None]) + 0.55 * below * texture
    side = crest * np.float32(world.light) / (0.012 + 0.25 * np.maximum(below, 0))
    lit = np.clip(0.5 + 0.5 * np.tanh(2 * side) + 0.45 * texture, 0, 1)
    share = np.clip(altitude / np.float32(height), 0, 1)
    lit = mix(np.clip(0.58 + 0.4 * texture, 0, 1), lit, smooth(share, 0.05, 0.45))
    tone = mix(MEADOW_TONE, ROCK_TONE, smooth(share + 0.18 * texture, 0.15, 0.5))
    haze_here = np.clip(haze + 0.3 * (1 - share) ** 2, 0, 0.92)
    rgb = world.palette.hazy(world.palette.lit(tone, lit), haze_here)
    canvas.paint(area, mask, rgb, "mountain")
    if snow_line is not None:
        ragged = share + 0.13 * texture - 0.1 * np.abs(np.clip(side, -1, 1))
        white = world.palette.hazy(world.palette.lit(SNOW_TONE, np.clip(lit, 0.2, 1)), haze_here * 0.55)
        canvas.paint(area, mask & (ragged > snow_line), white, "snow")


def paint_forest(world: SceneContext, haze: float, height: float, pointed: bool) -> None:
    """Paint a forest along the horizon, with pointed (conifer) or round treetops."""
    canvas = world.canvas
    offset, finer = world.offset(), world.between(22, 34)
    share, slope = world.between(0.3, 0.75), world.between(-0.6, 0.6)
    area = canvas.area(world.horizon - height * 1.9, world.horizon + 0.02)
    if area is None:
        return
    x = area.x[0]
    swell = fbm(area.x, np.zeros(1, np.float32), 3, 2, offset)[0] + slope * (x / canvas.aspect - 0.5) * 2
    present = smooth(swell + np.float32(share), 0.0, 0.3)
    tops = np.maximum(_tree_tops(x, finer, offset, pointed), _tree_tops(x, finer * 0.73, offset + 5, pointed))
    profile = np.float32(height) * present * (0.5 + tops + 0.15 * swell)
    altitude = np.float32(world.horizon) - area.y
    texture = fbm(area.x, area.y, 26, 3, offset + 9, stretch=0.8)
    fraction = np.clip(altitude / np.maximum(profile, 1e-3), 0, 1)
    lean = np.float32(world.light * 0.02) * -np.gradient(tops, x)
    lit = np.clip(0.15 + 0.5 * fraction + np.clip(lean, -0.2, 0.2) + 0.3 * texture, 0, 1)
    tone = color(52, 92, 58) if pointed else color(74, 118, 50)
    rgb = world.palette.hazy(world.palette.lit(tone, lit), haze)
    canvas.paint(area, (altitude < profile) & (present > 0.05), rgb, "tree")


def _tree_tops(x: Floats, finer: float, offset: float, pointed: bool) -> Floats:
    """Return the height of a row of trees, `finer` per image height, at x coordinates `[w]`."""
    cells = x * np.float32(finer) + np.float32(offset)
    number = np.floor(cells)
    middle = 1 - np.abs(2 * (cells - number) - 1)
    each = 0.5 + 0.5 * np.sin(number * np.float32(12.9898))
    crown = middle * 0.9 if pointed else np.sqrt(np.clip(1 - (1 - middle) ** 2, 0, 1)) * 0.55
    tops: Floats = (0.35 * each + crown * (0.35 + 0.45 * each)).astype(np.float32)
    return tops
