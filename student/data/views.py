"""Views that a sample renders: cameras, neighbouring frames and virtual views (DistillNeRF Sec. 3.2)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from student.config import ViewsConfig
from student.data.training_set import FrozenScene


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetView:
    """One view to render.

    Attributes:
        frame_index: Frame of its image and of its exposure pose.
        camera_index: Camera of the view, or the one that a virtual view is shifted from.
        virtual_index: Index of the teacher's shift; None for the camera itself.
    """

    frame_index: int
    camera_index: int
    virtual_index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewChoice:
    """The views of one sample.

    Attributes:
        real: Camera views; None entries are padding.
        virtual: Virtual views; None entries are padding.
    """

    real: tuple[TargetView | None, ...]
    virtual: tuple[TargetView | None, ...] = ()


def all_views(scene: FrozenScene, frame_index: int) -> ViewChoice:
    """Return every camera of one frame, as validation does."""
    return ViewChoice(real=tuple(TargetView(frame_index=frame_index, camera_index=c) for c in range(scene.num_cameras)))


def draw_views(
    scene: FrozenScene,
    frame_index: int,
    config: ViewsConfig,
    *,
    num_cameras: int,
    num_virtual_views: int,
    generator: np.random.Generator,
) -> ViewChoice:
    """Draw the views of a training sample without repetition, padded to the same numbers for every sample.

    The paper draws one virtual view per camera beside the camera's own (DistillNeRF Sec. A.7). Here too, no camera gets
    a second neighbouring or virtual view before each has had one.

    Args:
        scene: The sample's scene.
        frame_index: The sample's frame.
        config: Numbers of views of each sort.
        num_cameras: Cameras of the largest rig, which decides the padding.
        num_virtual_views: Shifts that the teacher rendered per camera.
        generator: Random generator.
    """
    cameras = range(scene.num_cameras)
    same = [TargetView(frame_index=frame_index, camera_index=camera) for camera in cameras]
    # A held-out frame is never a target either.
    frames = [f for f in (frame_index - 1, frame_index + 1) if f in scene.train_frames]
    neighbour = [TargetView(frame_index=frame, camera_index=camera) for frame in frames for camera in cameras]
    virtual = [
        TargetView(frame_index=frame_index, camera_index=camera, virtual_index=index)
        for camera in cameras
        for index in range(num_virtual_views)
    ]
    return ViewChoice(
        real=(
            *_draw(same, min(config.same_frame, num_cameras), generator),
            *_draw(neighbour, config.neighbour, generator),
        ),
        virtual=_draw(virtual, config.virtual, generator),
    )


def _draw(
    candidates: Sequence[TargetView], number: int, generator: np.random.Generator
) -> tuple[TargetView | None, ...]:
    """Draw some of the candidates, of as many different cameras as there are."""
    shuffled = [candidates[index] for index in generator.permutation(len(candidates))]
    had: Counter[int] = Counter()
    rounds: dict[int, list[TargetView]] = {}
    for view in shuffled:
        rounds.setdefault(had[view.camera_index], []).append(view)
        had[view.camera_index] += 1
    chosen = [view for number_had in sorted(rounds) for view in rounds[number_had]][:number]
    return tuple(chosen) + (None,) * (number - len(chosen))
