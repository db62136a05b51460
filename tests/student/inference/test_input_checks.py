"""What a student would answer with something that looks like an answer is refused, and the message says why."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import student
from student.inference.open_vocabulary import check_tokens
from student.inference.predictor import Predictor
from student.model.types import CameraInputs, TargetCameras


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.from_folder(Path(student.__file__).parent / "pretrained", device="cpu")


@pytest.fixture
def inputs(predictor: Predictor) -> CameraInputs:
    data, channels = predictor.config.data, predictor.config.model.coarse_depth.depth_feature_channels
    height, width = data.image_height, data.image_width
    axes = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
    return CameraInputs(
        images=torch.rand(1, 2, 3, height, width),
        intrinsics=torch.tensor([[width / 2, 0, width / 2], [0, width / 2, height / 2], [0, 0, 1]]).expand(1, 2, 3, 3),
        camera_to_reference_ego=axes.expand(1, 2, 4, 4).clone(),
        camera_is_present=torch.tensor([[True, False]]),
        depth_features=torch.rand(1, 2, channels, 4, 7) if channels else None,
    )


def _with(tensor: torch.Tensor, place: tuple[int, ...], value: float) -> torch.Tensor:
    changed = tensor.clone()
    changed[place] = value
    return changed


def _forced(inputs: CameraInputs, changes: dict[str, torch.Tensor | None]) -> CameraInputs:
    """Return changed inputs, unchecked: shape annotations are enforced in tests alone."""
    changed = copy.copy(inputs)
    for name, value in changes.items():
        object.__setattr__(changed, name, value)
    return changed


WRONG = {
    "0 to 255": (lambda i: {"images": i.images * 255}, r"images have values from .* to 25\d.*, want RGB in \[0, 1\]"),
    "-1 to 1": (lambda i: {"images": i.images * 2 - 1}, r"want RGB in \[0, 1\]"),
    "a NaN": (
        lambda i: {"images": _with(i.images, (0, 0, 1, 2, 3), torch.nan)},
        "1 of .* values of images are not finite",
    ),
    "rows": (lambda i: {"images": i.images[:, :, :, 1:]}, r"images have shape .*, want \(_, _, 3, "),
    "no axis": (lambda i: {"images": i.images[0]}, r"images have shape .*, want \(_, _, 3, "),
    "a batch": (
        lambda i: {n: getattr(i, n).repeat(2, *[1] * (getattr(i, n).ndim - 1)) for n in ("images",)},
        "2 frames",
    ),
    "no camera": (lambda i: {"camera_is_present": torch.tensor([[False, False]])}, "one that is true"),
    "presence of three": (lambda i: {"camera_is_present": torch.ones(1, 3, dtype=torch.bool)}, "for each of 2"),
    "poses of one": (lambda i: {"camera_to_reference_ego": i.camera_to_reference_ego[:, :1]}, r"want \(1, 2, 4, 4\)"),
    "a pose's NaN": (
        lambda i: {"camera_to_reference_ego": _with(i.camera_to_reference_ego, (0, 0, 0, 3), torch.nan)},
        "camera 0 .* want a rigid motion",
    ),
    "a pose in the world": (
        lambda i: {"camera_to_reference_ego": _with(i.camera_to_reference_ego, (0, 0, 0, 3), 1e7)},
        "puts a camera 1e.07 m from the vehicle's origin",
    ),
    "a scale": (
        lambda i: {"camera_to_reference_ego": i.camera_to_reference_ego * torch.tensor([1.1, 1.1, 1.1, 1.0])},
        "want a rigid motion",
    ),
    "a mirror": (
        lambda i: {"camera_to_reference_ego": i.camera_to_reference_ego * torch.tensor([-1.0, 1, 1, 1])},
        "want a rigid motion",
    ),
    "a translation below": (
        lambda i: {"camera_to_reference_ego": i.camera_to_reference_ego.transpose(2, 3)},
        "last row 0 0 0 1",
    ),
    "a negative focal length": (lambda i: {"intrinsics": -i.intrinsics}, "want focal lengths > 0"),
    "normalised pixels": (lambda i: {"intrinsics": _with(i.intrinsics, (0, 0, 2, 2), 0.0)}, "last row 0 0 1"),
    "features of nobody": (
        lambda i: {"depth_features": torch.rand(1, 2, 3, 4, 7) if i.depth_features is None else None},
        "depth_features: want",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_frame_of_a_rig_is_refused(predictor: Predictor, inputs: CameraInputs, wrong: str) -> None:
    change, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message):
        predictor.encode(_forced(inputs, change(inputs)))


def test_what_is_marked_as_padding_is_not_read(predictor: Predictor, inputs: CameraInputs) -> None:
    poses = _with(inputs.camera_to_reference_ego, (0, 1), torch.nan)
    assert predictor.encode(replace(inputs, images=_with(inputs.images, (0, 1), 255.0), camera_to_reference_ego=poses))


def test_a_view_of_no_camera_is_refused(predictor: Predictor, inputs: CameraInputs) -> None:
    field = predictor.encode(inputs)
    cameras = TargetCameras(
        intrinsics=inputs.intrinsics,
        camera_to_reference_ego=inputs.camera_to_reference_ego,
        target_is_present=inputs.camera_is_present,
        render_height=4,
        render_width=6,
    )
    assert predictor.render(field, cameras).opacity.shape == (1, 4, 6)
    bent = _with(inputs.camera_to_reference_ego, (0, 0, 0, 0), 2.0)
    for change, message in (
        ({"camera_to_reference_ego": bent}, "want a rigid motion"),
        ({"intrinsics": inputs.intrinsics * 0}, "want focal lengths > 0"),
        ({"target_is_present": torch.zeros(1, 2, dtype=torch.bool)}, "one that is true"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor.render(field, replace(cameras, **change))


def test_a_text_that_does_not_fit_is_an_error() -> None:
    mask = torch.tensor([[1] * 77 + [0], [1] * 78])
    check_tokens(["short"], mask[:1], 77)
    with pytest.raises(ValueError, match="a text of 78 tokens, want <= 77: 'long'"):
        check_tokens(["short", "long"], mask, 77)
