"""Composition of procedural scenes: samples the content and paints it from far to near."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lab2pix.data.scenes.backdrop import SceneContext, paint_clouds, paint_forest, paint_mountains, paint_sky, paint_sun
from lab2pix.data.scenes.canvas import Canvas
from lab2pix.data.scenes.ground import Road, Shore, paint_flowers, paint_meadow, paint_road, paint_sand, paint_water
from lab2pix.data.scenes.light import HOURS, Palette
from lab2pix.data.scenes.objects import paint_boat, paint_conifer, paint_house, paint_rock, paint_round_tree

__all__ = ["compose"]


@dataclass(frozen=True)
class Placement:
    """Constraints on the positions of objects: water, road, and positions (x, y) of houses placed so far."""

    shore: Shore | None
    road: Road | None
    houses: list[tuple[float, float]]

    def off_road(self, across: float, depth: float, margin: float) -> bool:
        """Return whether a position at `depth` (0 horizon, 1 lower edge) is clear of the road."""
        if self.road is None:
            return True
        middle = float(self.road.middle(np.array([depth], np.float32))[0])
        return abs(across - middle) > self.road.width * depth * 1.1 + margin

    def hides_house(self, across: float, down: float, margin: float) -> bool:
        """Return whether an object at this position would occlude a house."""
        return any(abs(across - x) < margin and down > y for x, y in self.houses)


def compose(canvas: Canvas, rng: np.random.Generator, light: Palette | None = None) -> None:
    """Sample the content of a scene and paint it from back to front.

    Args:
        canvas: canvas to paint on.
        rng: random generator of the scene.
        light: colors of the light; None: those of the sampled time of day.
    """
    time = str(rng.choice(["noon", "golden", "dusk"], p=[0.62, 0.24, 0.14]))
    palette, horizon = HOURS[time] if light is None else light, float(rng.uniform(0.42, 0.56))
    low, high = HOURS[time].sun_height
    side = rng.uniform(0.08, 0.4) if rng.random() < 0.5 else rng.uniform(0.6, 0.92)
    sun = (float(side) * canvas.aspect, horizon * (1 - float(rng.uniform(low, high))))
    world = SceneContext(canvas, rng, palette, horizon, sun, min(1.0, canvas.aspect))
    kind = str(rng.choice(["lake", "coast", "meadow"], p=[0.4, 0.24, 0.36]))
    sunny = bool(rng.random() < (0.5 if time == "noon" else 0.85))
    _paint_far(world, kind, sunny)
    paint_meadow(world)
    shore = _paint_shore(world, kind, sunny)
    road = _draw_road(world, kind)
    if rng.random() < 0.5 and kind != "coast":
        paint_flowers(world, world.between(0.25, 0.8))
    _paint_things(world, kind, shore, road)


def _paint_far(world: SceneContext, kind: str, sunny: bool) -> None:
    """Paint the sky and the objects on the horizon."""
    rng = world.rng
    paint_sky(world)
    if sunny:
        paint_sun(world)
    if rng.random() < 0.8:
        paint_clouds(world, int(rng.integers(1, 5)))
    ranges = int(rng.choice([0, 1, 2, 3], p=[0.45, 0.3, 0.25, 0.0] if kind == "coast" else [0.1, 0.25, 0.4, 0.25]))
    high = world.between(0.62, 0.9) * world.horizon
    for number in range(ranges):
        left = ranges - 1 - number
        height = high * (0.36 + 0.32 * left if ranges > 1 else 0.7)
        snow = world.between(0.45, 0.7) if rng.random() < 0.8 and (left > 0 or ranges == 1) else None
        paint_mountains(world, 0.08 + 0.2 * left + world.between(0, 0.1), height, snow)
    if kind != "coast" and rng.random() < 0.75:
        paint_forest(world, world.between(0.22, 0.42), world.between(0.045, 0.1), bool(rng.random() < 0.55))


def _paint_shore(world: SceneContext, kind: str, sunny: bool) -> Shore | None:
    """Paint water and its beach, and return the outline; None for meadows."""
    rng = world.rng
    if kind == "meadow":
        return None
    ground = 1 - world.horizon
    coast = kind == "coast"
    shore = Shore(
        level=world.horizon + ground * world.between(0.35, 0.72),
        tilt=world.between(-0.5, 0.5) * ground * (1.2 if coast else 0.9),
        bays=world.between(0.02, 0.06),
        offset=world.offset(),
        far=world.horizon + (0.0 if coast else world.between(0.008, 0.03)),
        sand=(world.between(0.25, 0.7) if coast else world.between(0.03, 0.09)) if coast or rng.random() < 0.35 else 0,
    )
    paint_water(world, shore, sunny)
    if shore.sand:
        paint_sand(world, shore)
    return shore


def _draw_road(world: SceneContext, kind: str) -> Road | None:
    """Paint a road in some of the meadows, and return it; None if there is none."""
    rng = world.rng
    if kind != "meadow" or rng.random() > 0.72:
        return None
    road = Road(
        start=world.between(0.25, 0.75) * world.canvas.aspect,
        end=world.between(0.15, 0.85) * world.canvas.aspect,
        bend=world.between(-0.25, 0.25) * world.canvas.aspect,
        width=world.between(0.12, 0.24) * world.unit,
        offset=world.offset(),
    )
    paint_road(world, road)
    return road


def _paint_things(world: SceneContext, kind: str, shore: Shore | None, road: Road | None) -> None:
    """Sample trees, houses, rocks and boats and their positions, and paint them from far to near."""
    rng = world.rng
    season = int(rng.choice([0, 1, 2, 3], p=[0.4, 0.3, 0.2, 0.1]))
    firs = float(rng.choice([0.1, 0.5, 0.9]))
    coast = kind == "coast"
    trees = ["tree"] * int(rng.integers(0, 5) if coast else rng.integers(4, 11))
    wanted = ["house"] * int(rng.choice([0, 1, 2, 3], p=[0.6, 0.3, 0.1, 0] if coast else [0.22, 0.36, 0.26, 0.16]))
    wanted += ["rock"] * (int(rng.integers(2, 6)) if rng.random() < 0.5 else 0)
    wanted += ["boat"] * (int(rng.integers(1, 4)) if shore is not None and rng.random() < 0.6 else 0)
    site = Placement(shore, road, [])
    placed = []
    for name in wanted + trees:
        place = _find_place(world, name, site)
        placed.append((place, name))
        if name == "house" and place is not None:
            site.houses.append(place)
    if rng.random() < 0.35 and not coast:
        across = world.between(0.0, 0.16) if rng.random() < 0.5 else world.between(0.84, 1.0)
        placed.append(((across * world.canvas.aspect, world.between(0.88, 1.02)), "framing"))
    for place, name in sorted((item for item in placed if item[0]), key=lambda item: item[0][1] if item[0] else 0):
        assert place is not None
        depth = place[1] - world.horizon
        haze = 0.42 * float(np.exp(-14 * depth))
        scale = world.unit * world.between(0.85, 1.2)
        if name in {"tree", "framing"}:
            height = (0.07 + 0.72 * depth) * scale if name == "tree" else world.between(0.5, 0.8) * world.unit
            if rng.random() < firs:
                paint_conifer(world, place, height * 1.15, haze)
            else:
                paint_round_tree(world, place, height, haze, season)
        elif name == "house":
            paint_house(world, place, float(np.clip(0.12 + 0.8 * depth, 0.15, 0.36)) * scale, haze)
        elif name == "rock":
            paint_rock(world, place, (0.025 + 0.2 * depth) * scale, haze)
        else:
            paint_boat(world, place, (0.07 + 0.6 * depth) * scale, haze)


def _find_place(world: SceneContext, name: str, site: Placement) -> tuple[float, float] | None:
    """Return a valid position (x, y) for an object by rejection sampling, or None if none was found."""
    aspect = world.canvas.aspect
    low, high = {"tree": (0.02, 0.75), "house": (0.08, 0.5), "rock": (0.2, 0.95), "boat": (0.06, 0.6)}[name]
    for _ in range(14):
        across = world.between(0.03, 0.97) * aspect
        depth = low + (high - low) * world.between(0, 1) ** 1.5
        down = world.horizon + (1 - world.horizon) * depth
        edge = 0.0 if site.shore is None else float(site.shore.near(np.array([across], np.float32), aspect)[0])
        if name == "boat":
            fits = down < edge - 0.03
        elif name == "rock":
            fits = down > edge - 0.06 and site.off_road(across, depth, 0.04)
        else:
            fits = down > edge + 0.02 and site.off_road(across, depth, 0.16 if name == "house" else 0.04)
            fits = fits and not site.hides_house(across, down, 0.14 * world.unit)
        if fits:
            return across, down
    return None
