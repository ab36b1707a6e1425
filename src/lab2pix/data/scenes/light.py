"""The light that a drawn scene lies in: the colours of sky, sun and shade at times of day and in weathers."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from lab2pix.data.scenes.canvas import Floats, color, mix

__all__ = ["HOURS", "WEATHERS", "Palette", "any_light"]


@dataclass(frozen=True)
class Palette:
    """The colours of a time of day, each `[3, 1, 1]`.

    Attributes:
        zenith: sky overhead.
        horizon: sky above the horizon; far things fade to it.
        glow: light around the sun, and its glitter on water.
        light: what a surface's colour is multiplied with in the sun.
        shade: the same out of the sun.
        water: water that reflects nothing.
        sun_height: lowest and highest place of the sun, 0 (horizon) to 1 (top).
    """

    zenith: Floats
    horizon: Floats
    glow: Floats
    light: Floats
    shade: Floats
    water: Floats
    sun_height: tuple[float, float]

    def lit(self, surface: Floats, amount: Floats | float) -> Floats:
        """Return how a surface looks with `amount` (0..1) of the sun's light on it."""
        return surface * mix(self.shade, self.light, amount)

    def hazy(self, surface: Floats, amount: Floats | float) -> Floats:
        """Return how a surface looks through `amount` (0..1) of haze."""
        return mix(surface, self.horizon, amount)


HOURS = {
    "noon": Palette(
        zenith=color(52, 118, 205),
        horizon=color(190, 218, 240),
        glow=color(255, 252, 235),
        light=color(265, 260, 248),
        shade=color(140, 152, 182),
        water=color(28, 92, 135),
        sun_height=(0.62, 0.9),
    ),
    "golden": Palette(
        zenith=color(92, 142, 205),
        horizon=color(250, 216, 172),
        glow=color(255, 230, 165),
        light=color(272, 250, 208),
        shade=color(135, 132, 158),
        water=color(48, 92, 122),
        sun_height=(0.22, 0.5),
    ),
    "dusk": Palette(
        zenith=color(66, 78, 148),
        horizon=color(252, 160, 98),
        glow=color(255, 205, 120),
        light=color(262, 208, 168),
        shade=color(112, 106, 142),
        water=color(45, 62, 105),
        sun_height=(0.06, 0.24),
    ),
}
"""Times of day, which the height of the sun tells."""

WEATHERS = {
    "rosy": Palette(
        zenith=color(112, 130, 196),
        horizon=color(250, 192, 188),
        glow=color(255, 224, 205),
        light=color(270, 226, 220),
        shade=color(134, 126, 164),
        water=color(74, 88, 132),
        sun_height=(0.06, 0.5),
    ),
    "overcast": Palette(
        zenith=color(146, 157, 170),
        horizon=color(206, 212, 216),
        glow=color(232, 234, 232),
        light=color(212, 214, 216),
        shade=color(150, 156, 168),
        water=color(84, 106, 120),
        sun_height=(0.06, 0.9),
    ),
    "storm": Palette(
        zenith=color(56, 66, 88),
        horizon=color(152, 160, 164),
        glow=color(214, 216, 200),
        light=color(188, 190, 182),
        shade=color(92, 100, 120),
        water=color(38, 58, 76),
        sun_height=(0.06, 0.9),
    ),
    "moonlit": Palette(
        zenith=color(14, 22, 58),
        horizon=color(56, 76, 124),
        glow=color(206, 216, 238),
        light=color(104, 120, 166),
        shade=color(42, 50, 86),
        water=color(16, 28, 60),
        sun_height=(0.06, 0.9),
    ),
}
"""Light that no label map tells; by the moon, the disc of class `sun` is the moon's."""

SHARES = (0.2, 0.17, 0.17, 0.15, 0.1, 0.1, 0.11)
"""How often `any_light` begins with each hour and weather."""


def any_light(rng: np.random.Generator) -> Palette:
    """Return the colours of any time of day or weather, or of something between two.

    Args:
        rng: decides which.
    """
    lights = [*HOURS.values(), *WEATHERS.values()]
    first, second = rng.choice(len(lights), 2, replace=False, p=SHARES)
    share = float(rng.beta(0.35, 0.35))  # more often near one of the two than halfway
    one, other = lights[int(first)], lights[int(second)]
    blended = {
        field.name: mix(getattr(one, field.name), getattr(other, field.name), share)
        for field in fields(Palette)
        if field.name != "sun_height"
    }
    return Palette(**blended, sun_height=one.sun_height)
