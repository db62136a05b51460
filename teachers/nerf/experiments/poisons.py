"""Ways in which what is rendered from a field goes wrong, as functions of rendered views.

Gates must catch each: tests poison a small exact scene, ``gate_power`` whole data sets.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from teachers.nerf.rendered_views import FieldViews

Rendered = list[list[FieldViews]]
"""Views of a scene, by frame and camera."""

Poison = Callable[[Rendered], Rendered]

_NAN = np.float32(np.nan)


def _each(change: Callable[[FieldViews], dict[str, np.ndarray]]) -> Poison:
    return lambda rendered: [[replace(views, **change(views)) for views in frame] for frame in rendered]


def _show(place: FieldViews, content: FieldViews) -> FieldViews:
    """Put what one camera shows in the place of another."""
    return replace(place, rgb=content.rgb, termination_depth=content.termination_depth, opacity=content.opacity)


def _exchange_cameras(rendered: Rendered) -> Rendered:
    return [[_show(first, second), _show(second, first), *rest] for first, second, *rest in rendered]


def _late_frames(rendered: Rendered) -> Rendered:
    later = [*rendered[1:], rendered[0]]
    return [[_show(a, b) for a, b in zip(*pair, strict=True)] for pair in zip(rendered, later, strict=True)]


def _late_depth(rendered: Rendered) -> Rendered:
    return [
        [replace(views, rgb=own.rgb) for views, own in zip(*pair, strict=True)]
        for pair in zip(_late_frames(rendered), rendered, strict=True)
    ]


def _one_frame(rendered: Rendered) -> Rendered:
    *before, last = rendered[1]
    return [rendered[0], [*before, _show(last, rendered[3][-1])], *rendered[2:]]


POISONS: dict[str, Poison] = {
    "depth times 1.1": _each(lambda v: {"termination_depth": v.termination_depth * np.float32(1.1)}),
    "depth over 1.1": _each(lambda v: {"termination_depth": v.termination_depth / np.float32(1.1)}),
    "two cameras exchanged": _exchange_cameras,
    "frames late by one": _late_frames,
    "depth late by one frame": _late_depth,
    "one frame of one camera is another's": _one_frame,
    "depth not a number": _each(lambda v: {"termination_depth": v.termination_depth * _NAN}),
    "opacity inverted": _each(lambda v: {"opacity": 1 - v.opacity}),
    "images black": _each(lambda v: {"rgb": 0 * v.rgb}),
    "views exchanged": _each(
        lambda v: (
            {n: getattr(v, n)[[1, 0, *range(2, len(v.rgb))]] for n in ("rgb", "termination_depth", "opacity")}
            if len(v.rgb) > 1
            else {}
        )
    ),
}
"""Poisons by name; the second needs two cameras, the fifth four frames, the last two views."""
