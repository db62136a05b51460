"""What one stage takes from another, settled once a run's choices are complete.

A preset leaves open what follows from the student and from the split. Overrides may change the student, or close what
is open by a number of their own. What is still open then is settled here, so that configurations of stages, and with
them provenance and digests, hold numbers only.
"""

import dataclasses
from typing import Any, TypeVar

from pipeline.presets import PipelineConfig
from teachers.nerf.config import TeacherOccupancyConfig

C = TypeVar("C")


def settle(config: PipelineConfig, *, holds_out_frames: bool | None) -> PipelineConfig:
    """Return the configuration with nothing left open.

    Each target has the size of the finest grid on which the student compares itself with it, so none is ever enlarged:

    - input images are what the student reads;
    - ``teacher_depth`` is compared on the depth grid and on the render grid;
    - images of ``virtual_views`` are compared with decoded images, twice the render grid;
    - ``teacher_features`` are compared on the render grid;
    - the field reads images as fine as the virtual views that are rendered from it, and its own least size or finer;
    - ``teacher_occupancy`` is read at the frames that the student is judged on;
    - ``sky_mask`` is read on the field's images and on the student's depth grid and render grid.

    Args:
        config: Choices of a run. A size that they give is kept.
        holds_out_frames: Whether frames of each scene are held out from the student, instead of whole scenes. None if
            that is not decided yet; the field is then fitted to no held-out frame, unless it is asked to.

    Raises:
        ValueError: If the field is asked to be fitted to frames that are held out from the student.
    """
    data = config.student.data
    images, render = (data.image_height, data.image_width), (data.render_height, data.render_width)
    depth = _finest((data.depth_height, data.depth_width), render)
    views = _open_size(config.virtual_views, (2 * render[0], 2 * render[1]))
    nerf = dataclasses.replace(config.nerf, **_field_images(config, views.size))
    sky = _open_size(config.image_teachers.sky, _finest(nerf.image_size, depth))
    if holds_out_frames and nerf.fit_all_frames:
        raise ValueError(
            f"nerf.fit_all_frames is True, but 1 in {nerf.holdout_every} frames is held out from the student, which "
            "would learn them from its teacher: want False, or whole scenes held out (split.held_out_scenes)"
        )
    if nerf.fit_all_frames is None:
        nerf = dataclasses.replace(nerf, fit_all_frames=holds_out_frames is False)
    return dataclasses.replace(
        config,
        input_images=_open_size(config.input_images, images),
        image_teachers=dataclasses.replace(config.image_teachers, sky=sky),
        nerf=nerf,
        teacher_depth=_open_size(config.teacher_depth, depth),
        teacher_occupancy=_judged_frames(config, holds_out_frames=holds_out_frames),
        virtual_views=views,
        teacher_features=_open_size(config.teacher_features, render),
    )


def _judged_frames(config: PipelineConfig, *, holds_out_frames: bool | None) -> TeacherOccupancyConfig:
    """Return a configuration that reads the frames that a student is judged on."""
    asked = config.teacher_occupancy
    if asked.stride is not None:
        return asked
    return dataclasses.replace(asked, stride=config.nerf.holdout_every if holds_out_frames else 1)


def _finest(*sizes: tuple[int, int]) -> tuple[int, int]:
    return max(height for height, _ in sizes), max(width for _, width in sizes)


def _open_size(config: C, followed: tuple[int, int]) -> C:
    """Return a configuration with ``height`` and ``width`` set where they are open."""
    target: Any = config
    given = (target.height, target.width)
    height, width = (follow if own is None else own for own, follow in zip(given, followed, strict=True))
    return dataclasses.replace(target, height=height, width=width)


def _field_images(config: PipelineConfig, views: tuple[int, int]) -> dict[str, int]:
    nerf = config.nerf
    height, width = _finest((nerf.min_image_height, nerf.min_image_width), views)
    return {
        "image_height": height if nerf.image_height is None else nerf.image_height,
        "image_width": width if nerf.image_width is None else nerf.image_width,
    }
