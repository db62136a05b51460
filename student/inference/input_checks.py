"""Refuse inputs that a student would answer with something that looks like an answer.

Images of 0 to 255, poses that are not rigid or not finite, sizes of another configuration: the network computes with
any of them, or fails in the middle.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from student.config import StudentConfig
from student.model.types import CameraInputs, TargetCameras

_IMAGE_SLACK = 0.05
"""Resampling overshoots by a little."""
_RIGID_TOLERANCE = 1e-3
_MOST_DISTANT_M = 100.0
"""A camera farther from the vehicle's origin has a pose in the world."""


def check_inputs(inputs: CameraInputs, config: StudentConfig) -> None:
    """Check one frame against what a student was configured for; what ``camera_is_present`` rules out is not read.

    Raises:
        ValueError: If there is not one frame with a camera, an array has another size than configured, or a value is
            not finite or out of range; the message says what is wanted.
    """
    data, model = config.data, config.model
    batch, cameras = _sizes(inputs.images, "images", {2: 3, 3: data.image_height, 4: data.image_width})
    _check_count(batch, cameras, inputs.camera_is_present, "camera_is_present")
    present = inputs.camera_is_present[0]
    images = inputs.images[0][present]
    _check_finite(images, "images")
    low, high = float(images.min()), float(images.max())
    if low < -_IMAGE_SLACK or high > 1 + _IMAGE_SLACK:
        raise ValueError(f"images have values from {low:.4g} to {high:.4g}, want RGB in [0, 1]")
    _check_cameras(inputs.intrinsics, inputs.camera_to_reference_ego, present, cameras)
    distances = torch.linalg.vector_norm(inputs.camera_to_reference_ego[0, present, :3, 3].double(), dim=-1)
    if (far := float(distances.max())) > _MOST_DISTANT_M:
        message = f"want its place on the vehicle, at most {_MOST_DISTANT_M:g} m"
        raise ValueError(f"camera_to_reference_ego puts a camera {far:.4g} m from the vehicle's origin, {message}")
    channels = model.coarse_depth.depth_feature_channels
    if (inputs.depth_features is None) == bool(channels):
        raise ValueError(f"depth_features: want {f'{channels} channels' if channels else 'none'}, as configured")
    if inputs.depth_features is not None:
        _sizes(inputs.depth_features, "depth_features", {0: 1, 1: cameras, 2: channels})
        _check_finite(inputs.depth_features[0][present], "depth_features")
    for name, wanted in (("fisheye", {1: cameras, 2: 4}), ("is_valid", {1: cameras, 2: data.image_height})):
        if (value := getattr(inputs, name)) is not None:
            _sizes(value, name, wanted)


def check_target_cameras(cameras: TargetCameras) -> None:
    """Check the views to render of one frame.

    Raises:
        ValueError: If there is no view, or intrinsics or a pose cannot be those of a camera.
    """
    batch, targets = _sizes(cameras.intrinsics, "intrinsics", {})
    _check_count(batch, targets, cameras.target_is_present, "target_is_present")
    _check_cameras(cameras.intrinsics, cameras.camera_to_reference_ego, cameras.target_is_present[0], targets)


def _sizes(value: Tensor, name: str, wanted: Mapping[int, int]) -> tuple[int, int]:
    """Return the first two sizes of an array after checking some of its sizes."""
    seen = tuple(value.shape)
    if len(seen) <= max((1, *wanted)) or any(seen[axis] != size for axis, size in wanted.items()):
        shape = ", ".join(str(wanted.get(axis, "_")) for axis in range(max(len(seen), *wanted, 1)))
        raise ValueError(f"{name} have shape {seen}, want ({shape})")
    return seen[0], seen[1]


def _check_count(batch: int, count: int, is_present: Bool[Tensor, "*sizes"], name: str) -> None:
    if batch != 1:
        raise ValueError(f"a batch of {batch} frames, want one")
    if tuple(is_present.shape) != (1, count) or not bool(is_present.any()):
        raise ValueError(f"{name} is {is_present.tolist()}, want one value for each of {count}, and one that is true")


def _check_cameras(
    intrinsics: Float[Tensor, "*sizes"],
    poses: Float[Tensor, "*other_sizes"],
    is_present: Bool[Tensor, " cameras"],
    count: int,
) -> None:
    _sizes(intrinsics, "intrinsics", {0: 1, 1: count, 2: 3, 3: 3})
    _sizes(poses, "camera_to_reference_ego", {0: 1, 1: count, 2: 4, 3: 4})
    for index in torch.nonzero(is_present).flatten().tolist():
        matrix, pose = intrinsics[0, index].double().cpu(), poses[0, index].double().cpu()
        last = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
        if not bool(
            torch.isfinite(matrix).all() and matrix[0, 0] > 0 and matrix[1, 1] > 0 and (matrix[2] == last).all()
        ):
            raise ValueError(
                f"intrinsics of camera {index} are {matrix.tolist()}, want focal lengths > 0, last row 0 0 1"
            )
        rotation = pose[:3, :3]
        off = float((rotation @ rotation.T - torch.eye(3, dtype=torch.float64)).abs().max())
        is_affine = bool((pose[3] == torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)).all())
        if not bool(torch.isfinite(pose).all()) or not is_affine or off > _RIGID_TOLERANCE or torch.det(rotation) < 0:
            message = "want a rigid motion: orthonormal axes, right-handed, finite, last row 0 0 0 1"
            raise ValueError(f"camera_to_reference_ego of camera {index} is {pose.tolist()}, {message}")


def _check_finite(values: Tensor, name: str) -> None:
    if wrong := int((~torch.isfinite(values)).sum()):
        raise ValueError(f"{wrong} of {values.numel()} values of {name} are not finite")
