"""Make renders look less like renders: other skies, surfaces, light and fog, where geometry and classes stay.

A network that must answer for photographs should not learn how this project's renderer paints.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from storage.taxonomy import CLASSES
from teachers.demo_training.augment import jitter_colours

Images = Float[Tensor, "batch 3 height width"]
Pixels = Bool[Tensor, "batch height width"]

_VEGETATION = next(entry.class_id for entry in CLASSES if entry.name == "vegetation")
_NUM_SURFACES = 997
"""Size of the table of random surfaces; a surface is drawn from it for every pair of class and instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenery:
    """What is known exactly of a batch of renders.

    Attributes:
        images: Images in [0, 1].
        semantics: Class ids.
        instance: Number of the actor; 0 for the surroundings.
        camera_depth: Depth along the optical axis, metres; NaN is sky.
        is_sky: Pixels that show the sky.
    """

    images: Images
    semantics: Int[Tensor, "batch height width"]
    instance: Int[Tensor, "batch height width"]
    camera_depth: Float[Tensor, "batch height width"]
    is_sky: Pixels


def estranged(scenery: Scenery, generator: torch.Generator) -> Images:
    """Return images of the same things under another appearance; each image has its own.

    Most batches get other surfaces, shadows, panes that mirror a sky, and trees whose crowns let the sky through, most
    another sky, some images fog, and all other colours, blur and noise.
    """
    draw = _Draws(generator, len(scenery.images))
    images = scenery.images
    size = (images.shape[-2], images.shape[-1])
    if draw.chance(0.7):
        images = _resurfaced(images, scenery, draw)
        images = _shadowed(images, scenery.is_sky, draw)
        images = _mirroring(images, scenery, _sky(size, draw), draw)
    if draw.chance(0.85):
        sky = torch.where(draw.some(0.15), images, _sky(size, draw))
        shown = scenery.is_sky[:, None].float()
        images = _blended(images, sky, torch.maximum(shown, _holes_in_crowns(scenery, draw)))
    images = _in_fog(images, scenery, draw)
    return jitter_colours(images, generator, strength=0.8)


@dataclass(frozen=True, slots=True)
class _Draws:
    """Random numbers for a batch."""

    generator: torch.Generator
    batch: int

    def chance(self, probability: float) -> bool:
        return float(torch.rand((), generator=self.generator)) < probability

    def uniform(self, low: float, high: float, *, channels: int = 1) -> Float[Tensor, "batch channels 1 1"]:
        return low + (high - low) * torch.rand((self.batch, channels, 1, 1), generator=self.generator)

    def some(self, probability: float) -> Bool[Tensor, "batch 1 1 1"]:
        return torch.rand((self.batch, 1, 1, 1), generator=self.generator) < probability

    def number(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def surfaces(self, channels: int) -> Float[Tensor, "batch surfaces channels"]:
        return torch.rand((self.batch, _NUM_SURFACES, channels), generator=self.generator)

    def clouds(
        self, size: tuple[int, int], *, channels: int = 1, coarsest: int = 2, falloff: float | None = None
    ) -> Float[Tensor, "batch channels height width"]:
        """Return noise of unit deviation whose every finer octave is weaker by ``falloff``, as in photographs."""
        height, width = size
        falloff = self.number(0.45, 0.85) if falloff is None else falloff
        noise, strength, cells = torch.zeros(self.batch, channels, height, width), 1.0, coarsest
        while cells < max(size):
            grid = (self.batch, channels, max(2, round(cells * height / max(size))), max(2, cells))
            coarse = torch.randn(grid, generator=self.generator)
            noise = noise + strength * functional.interpolate(coarse, size=size, mode="bicubic", align_corners=True)
            strength, cells = strength * falloff, 2 * cells
        return noise / noise.std(dim=(2, 3), keepdim=True).clamp_min(1e-3)


def _resurfaced(images: Images, scenery: Scenery, draw: _Draws) -> Images:
    """Give every class and instance another brightness and texture, and some another colour."""
    size = (images.shape[-2], images.shape[-1])
    tint = 0.5 * draw.surfaces(3) + 0.5 * draw.surfaces(1)
    recoloured = _of_surface((draw.surfaces(1) < 0.2).float(), scenery)
    grey = images.mean(dim=1, keepdim=True)
    result = images * (1 - recoloured) + 2 * grey * _of_surface(tint, scenery) * recoloured
    result = result * _of_surface(0.45 + 1.1 * draw.surfaces(1), scenery)
    texture = draw.clouds(size, coarsest=4, falloff=draw.number(0.6, 0.95))
    texture = texture + 0.3 * draw.clouds(size, channels=3, coarsest=8)
    result = result * (1 + _of_surface(0.3 * draw.surfaces(1).square(), scenery) * texture).clamp_min(0.1)
    return torch.where(scenery.is_sky[:, None], images, result).clamp(0, 1)


def _of_surface(
    table: Float[Tensor, "batch surfaces channels"], scenery: Scenery
) -> Float[Tensor, "batch channels height width"]:
    """Return each pixel's row of a table of random surfaces; the sky's is zero."""
    surface = (scenery.semantics * 7 + scenery.instance * 131) % _NUM_SURFACES
    taken = torch.gather(table, 1, surface.flatten(1)[..., None].expand(-1, -1, table.shape[-1]))
    taken = taken.transpose(1, 2).unflatten(2, surface.shape[1:])
    return torch.where(scenery.is_sky[:, None], 0.0, taken)


def _shadowed(images: Images, is_sky: Pixels, draw: _Draws) -> Images:
    """Cast soft or hard shadows of things outside the image on everything but the sky."""
    size = (images.shape[-2], images.shape[-1])
    shape = torch.sigmoid(draw.clouds(size, falloff=0.4) * draw.number(2.0, 10.0))
    darkness = draw.uniform(0.0, 0.7) * draw.some(0.6)
    return torch.where(is_sky[:, None], images, images * (1 - darkness * shape))


def _sky(size: tuple[int, int], draw: _Draws) -> Images:
    """Return a sky over the whole image: clear with a gradient, clouded, or grey; with or without the sun's glow."""
    height, width = size
    y, x = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    top = torch.cat([draw.uniform(0.1, 0.7), draw.uniform(0.25, 0.85), draw.uniform(0.5, 1.0)], dim=1)
    low = draw.uniform(0.6, 1.0) + draw.uniform(-0.05, 0.05, channels=3)
    share = (y * draw.uniform(1.0, 3.0)).clamp(0, 1)
    sky = top * (1 - share) + low * share
    noise = draw.clouds(size)
    cover = torch.sigmoid((noise + draw.uniform(-1.5, 1.5)) * draw.uniform(1.0, 6.0))
    cloud = draw.uniform(0.45, 1.0) + 0.12 * draw.clouds(size)
    sky = sky * (1 - cover) + cloud * (1 + draw.uniform(-0.03, 0.03, channels=3)) * cover
    grey = draw.uniform(0.82, 1.0) + 0.02 * noise
    sky = torch.where(draw.some(0.25), grey.expand_as(sky), sky)
    away = ((x - draw.uniform(0.0, 1.0)) ** 2 + (0.56 * (y - draw.uniform(0.0, 0.6))) ** 2).sqrt()
    return (sky + torch.exp(-away / draw.uniform(0.05, 0.35)) * draw.some(0.35)).clamp(0, 1)


def _mirroring(images: Images, scenery: Scenery, sky: Images, draw: _Draws) -> Images:
    """Let some surfaces look like a sky, as panes and white walls do: only what surrounds them tells."""
    share = draw.uniform(0.3, 1.0) * _of_surface((draw.surfaces(1) < 0.12).float(), scenery)
    return images * (1 - share) + sky * share


def _holes_in_crowns(scenery: Scenery, draw: _Draws) -> Float[Tensor, "batch 1 height width"]:
    """Return where the sky is seen through trees, whose crowns are solid in renders; they are no less trees there."""
    size = (scenery.images.shape[-2], scenery.images.shape[-1])
    noise = draw.clouds(size, coarsest=24, falloff=0.95)
    holes = (noise > draw.uniform(0.5, 2.5)) & draw.some(0.6)
    return (holes & (scenery.semantics == _VEGETATION)[:, None]).float()


def _blended(images: Images, others: Images, share: Float[Tensor, "batch 1 height width"]) -> Images:
    """Put other images over some where ``share`` is 1, with an edge as soft as a lens makes it."""
    soft = functional.avg_pool2d(share, 3, stride=1, padding=1)
    return images * (1 - soft) + others * soft


def _in_fog(images: Images, scenery: Scenery, draw: _Draws) -> Images:
    """Put some images in fog, which hides what is far."""
    density = (0.002 + 0.02 * draw.uniform(0.0, 1.0).square()) * draw.some(0.3)
    colour = draw.uniform(0.5, 1.0) * draw.uniform(0.95, 1.05, channels=3)
    clear = torch.exp(-density * scenery.camera_depth.nan_to_num(nan=0.0)[:, None])
    return torch.where(scenery.is_sky[:, None], images, images * clear + colour * (1 - clear)).clamp(0, 1)
