"""The published runs by name: every image size, space, data set and kind of output of the paper and of its code.

They share the published widths; :mod:`student.presets.students` has sizes for other machines. Where paper and code
disagree, ``docs/guides/differences-from-the-paper.md`` says which one is followed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypedDict

from student.config import StudentConfig, Variant
from student.model.config import ModelConfig
from student.presets.students import paper_student

Space = Literal["linear", "contracted"]
Output = Literal["rgb", "clip", "dinov2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    """Rows and columns of images, and the number of published depth bins that the renderer joins into one.

    The render grid is half the image. The published code has data but no model for 336x600 and 448x800; here they take
    its model for 224x400.
    """

    height: int
    width: int
    bins_as_one: int = 1


_SIZES = {
    "nuscenes-128x228": _Size(height=128, width=228),
    "nuscenes-224x400": _Size(height=224, width=400, bins_as_one=2),
    "nuscenes-336x600": _Size(height=336, width=600, bins_as_one=2),
    "nuscenes-448x800": _Size(height=448, width=800, bins_as_one=2),
    "waymo-144x216": _Size(height=144, width=216),  # the three front cameras of NOTR
}
PUBLISHED_SIZES = tuple(_SIZES)
"""Name of every published run's data set and image size."""
_LINEAR, _AS_CODED = "-linear", "-as-coded"
PUBLISHED_RUNS = tuple(
    f"{size}{space}{sampling}" for size in _SIZES for space in ("", _LINEAR) for sampling in ("", _AS_CODED)
)
"""Name of every published run that can be asked for: a size, "-linear" for linear space where the variant leaves it
open, and "-as-coded" for :func:`paper_compatible`."""


class _Published(TypedDict, total=False):
    space: Space
    output: Output


_OF_VARIANT: Mapping[Variant, _Published] = {
    "depth": {"space": "linear"},
    "depth_contracted_virtual": {"space": "contracted"},
    "clip": {"output": "clip"},
    "dinov2": {"output": "dinov2"},
}


def published_variant(name: str, variant: Variant) -> StudentConfig:
    """Return the published run of a name that teaches what a variant does.

    Args:
        name: One of :data:`PUBLISHED_RUNS`.
        variant: Variant, which says what is rendered, and in which space unless it renders features.

    Raises:
        ValueError: If there is no such run, or no published run is of this variant.
    """
    if variant not in _OF_VARIANT:
        raise ValueError(f"no published run is of variant {variant!r}: want one of {', '.join(_OF_VARIANT)}")
    if name not in PUBLISHED_RUNS:
        raise ValueError(f"published run {name!r}, want one of {', '.join(PUBLISHED_RUNS)}")
    size, chosen = name.removesuffix(_AS_CODED), _OF_VARIANT[variant]
    if size.endswith(_LINEAR):
        if chosen.get("space") == "contracted":
            raise ValueError(
                f"published run {name!r} is linear and variant {variant!r} contracted: want variant 'depth'"
            )
        size, chosen = size.removesuffix(_LINEAR), _Published(space="linear", output=chosen.get("output", "rgb"))
    run = published_student(size, **chosen)
    return paper_compatible(run) if name.endswith(_AS_CODED) else run


def published_student(size: str, *, space: Space = "contracted", output: Output = "rgb") -> StudentConfig:
    """Return a published run.

    Args:
        size: One of :data:`PUBLISHED_SIZES`.
        space: "linear" ends at 50 m; "contracted" covers all distances.
        output: Image alone, or image and foundation features from one model.

    Raises:
        ValueError: If there is no such size.
    """
    if size not in _SIZES:
        raise ValueError(f"published size {size!r}, want one of {', '.join(PUBLISHED_SIZES)}")
    of_space: dict[Space, Variant] = {"linear": "depth", "contracted": "depth_contracted_virtual"}
    of_output: dict[Output, Variant] = {"rgb": of_space[space], "clip": "clip", "dinov2": "dinov2"}
    run, features = paper_student(of_space[space]), paper_student(of_output[output])
    model = replace(run.model, feature_heads=features.model.feature_heads)
    chosen = _SIZES[size]
    return replace(
        run,
        model=_with_bins(model, chosen.bins_as_one),
        data=replace(
            run.data,
            image_height=chosen.height,
            image_width=chosen.width,
            depth_height=chosen.height,
            depth_width=chosen.width,
            render_height=chosen.height // 2,
            render_width=chosen.width // 2,
            feature_sources=features.data.feature_sources,
        ),
    )


def paper_compatible(run: StudentConfig) -> StudentConfig:
    """Return a run that samples and pools as the published code does, where a published figure needs it.

    A cell takes the plain mean of the points in it, and fine samples lie at fixed offsets around the heaviest coarse
    one. Defects of that code (targets of another quantity, stand-in files, noise while testing) are left out.
    """
    model = run.model
    return replace(
        run,
        model=replace(
            model,
            fine_depth=replace(model.fine_depth, lift_colour=False, lift_detail=False),
            voxels=replace(model.voxels, pooling="mean"),
            renderer=replace(model.renderer, fine_sampling="window", lookup="nearest"),
        ),
    )


def _with_bins(model: ModelConfig, bins_as_one: int) -> ModelConfig:
    bins = replace(model.renderer.bins, step=model.renderer.bins.step * bins_as_one)
    return replace(model, renderer=replace(model.renderer, bins=bins))
