"""Light of procedural scenes: colors of sky, sun and shade by time of day and weather."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from lab2pix.data.scenes.canvas import Floats, color, mix


@dataclass(frozen=True)
class Palette:
    """Colors of one light, each `[3, 1, 1]`.

    Attributes:
        zenith: sky at the zenith.
        horizon: sky at the horizon, and color of the haze.
        glow: light around the sun, and its glitter on water.
        light: factor of surface colors in the sun.
        shade: factor of surface colors in the shade.
        water: water without reflections.
        sun_height: lowest and highest position of the sun, 0 (horizon) to 1 (top).
    """

    zenith: Floats
    horizon: Floats
    glow: Floats
    light: Floats
    shade: Floats
    water: Floats
    sun_height: tuple[float, float]

    def lit(self, surface: Floats, amount: Floats | float) -> Floats:
        """Return the color of a surface with `amount` (0..1) of sunlight."""
        return surface * mix(self.shade, self.light, amount)

    def hazy(self, surface: Floats, amount: Floats | float) -> Floats:
        """Return the color of a surface behind `amount` (0..1) of haze."""
        return mix(surface, self.horizon, amount)


def _palette(sun_height: tuple[float, float], *colors: tuple[float, float, float]) -> Palette:
    """Return a palette from its colors, zenith to water, as 8-bit RGB."""
    zenith, horizon, glow, light, shade, water = (color(*rgb) for rgb in colors)
    return Palette(zenith, horizon, glow, light, shade, water, sun_height)


HOURS = {
    # sun height, zenith, horizon, glow, light, shade, water
    "noon": _palette(
        (0.62, 0.9), (52, 118, 205), (190, 218, 240), (255, 252, 235), (265, 260, 248), (140, 152, 182), (28, 92, 135)
    ),
    "golden": _palette(
        (0.22, 0.5), (92, 142, 205), (250, 216, 172), (255, 230, 165), (272, 250, 208), (135, 132, 158), (48, 92, 122)
    ),
    "dusk": _palette(
        (0.06, 0.24), (66, 78, 148), (252, 160, 98), (255, 205, 120), (262, 208, 168), (112, 106, 142), (45, 62, 105)
    ),
}
"""Times of day, set by the height of the sun."""

WEATHERS = {
    "rosy": _palette(
        (0.06, 0.5), (112, 130, 196), (250, 192, 188), (255, 224, 205), (270, 226, 220), (134, 126, 164), (74, 88, 132)
    ),
    "overcast": _palette(
        (0.06, 0.9), (146, 157, 170), (206, 212, 216), (232, 234, 232), (212, 214, 216), (150, 156, 168), (84, 106, 120)
    ),
    "storm": _palette(
        (0.06, 0.9), (56, 66, 88), (152, 160, 164), (214, 216, 200), (188, 190, 182), (92, 100, 120), (38, 58, 76)
    ),
    "moonlit": _palette(
        (0.06, 0.9), (14, 22, 58), (56, 76, 124), (206, 216, 238), (104, 120, 166), (42, 50, 86), (16, 28, 60)
    ),
}
"""Weathers, independent of the label map; in moonlight, the disc of class `sun` is the moon."""

SHARES = (0.2, 0.17, 0.17, 0.15, 0.1, 0.1, 0.11)
"""Probabilities of the times of day and weathers in `any_light`."""


def any_light(rng: np.random.Generator) -> Palette:
    """Sample a light: a blend of two times of day or weathers, usually close to one of them.

    Args:
        rng: random generator of the light.
    """
    lights = [*HOURS.values(), *WEATHERS.values()]
    first, second = rng.choice(len(lights), 2, replace=False, p=SHARES)
    share = float(rng.beta(0.35, 0.35))  # U-shaped: mostly close to 0 or 1
    one, other = lights[int(first)], lights[int(second)]
    blended = {
        field.name: mix(getattr(one, field.name), getattr(other, field.name), share)
        for field in fields(Palette)
        if field.name != "sun_height"
    }
    return Palette(**blended, sun_height=one.sun_height)
