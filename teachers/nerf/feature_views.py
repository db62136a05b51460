"""Render a feature field from any view, in nerfstudio's environment: colours, surface points and features.

``python -m teachers.nerf.feature_views REQUEST.json ANSWER.npz`` leaves its error, if it has one, as the worker does,
in ``ANSWER.npz.error``. Exit codes are the worker's.
"""

import json
import logging
import sys
from pathlib import Path

import numpy as np

from storage.config_json import config_from_json
from storage.errors import ErrorKind, PipelineError, ProvenanceMismatchError
from storage.kinds import FeatureSource, Kind
from storage.previews.pictures import to_uint8
from storage.stores.versioned import Home
from teachers.nerf.feature_request import FeatureReading, FeatureRequest
from teachers.nerf.task import write_result

logger = logging.getLogger("teachers.nerf.feature_views")


def render_feature_views(request: FeatureRequest) -> FeatureReading:
    """Return the views that are asked for.

    A pixel has a point and a depth where the field is at least as opaque as its judgement asks, in a fisheye only
    inside the image circle.

    Raises:
        MissingTargetError: If the scene was not fitted, or there is no such feature field.
        ProvenanceMismatchError: If it was distilled into another field than the scene's current one.
    """
    from teachers.nerf.torchvision_shim import declare_missing_operators

    declare_missing_operators()
    from teachers.nerf.distil_features import SAMPLES_PER_RAY
    from teachers.nerf.feature_field import load_feature_field
    from teachers.nerf.features import render_features
    from teachers.nerf.render_source import RenderSource

    home = Home(request.home_root, store_url=request.store_url)
    source = RenderSource(home, request.scene_key, request.execution)
    version = home.require(Kind.FEATURE_FIELD, request.scene_key, request.digest)
    assert source.teacher.version is not None
    if source.teacher.version.as_input not in home.provenance(version).inputs:
        raise ProvenanceMismatchError(
            ErrorKind.DIGEST_MISMATCH, str(version), f"was distilled into another field than {source.teacher.version}"
        )
    field = load_feature_field(home.open_files(version)).to(source.teacher.device).eval()
    size = (request.height, request.width)
    intrinsics = source.intrinsics(size)
    poses, colours, depths, points = [], [], [], []
    features: dict[FeatureSource, list[np.ndarray]] = {name: [] for name in field.description.num_channels}
    for view in request.views:
        shift = np.eye(4)
        shift[:3, 3] = view.shift_m
        pose = source.scene.camera_to_world(view.frame, view.camera) @ shift
        rendered = source.render(view.frame, view.camera, pose, size)
        rays = source.rays(view.frame, view.camera, pose, size)
        is_solid = (rendered.opacity >= source.teacher.nerf.min_opacity) & source.is_seen(view.camera, size)
        depth = np.where(is_solid.numpy(), rendered.termination_depth.numpy(), np.nan).astype(np.float32)
        poses.append(pose)
        colours.append(to_uint8(rendered.rgb.numpy()).reshape(*size, 3))
        depths.append(depth.reshape(size))
        ends = pose[:3, 3] + rays.directions.numpy() * depth[:, None]
        points.append(ends.astype(np.float32).reshape(*size, 3))
        surface = source.teacher.surface(rays, num_samples=SAMPLES_PER_RAY)
        for name, parts in features.items():
            parts.append(render_features(field, surface, name).astype(np.float16).reshape(*size, -1))
    return FeatureReading(
        frame_index=np.array([view.frame for view in request.views]),
        camera_index=np.array([view.camera for view in request.views]),
        camera_to_world=np.stack(poses),
        intrinsics=intrinsics[[view.camera for view in request.views]],
        rgb=np.stack(colours),
        termination_depth=np.stack(depths),
        points_world=np.stack(points),
        features={name: np.stack(parts) for name, parts in features.items()},
    )


def main(arguments: list[str]) -> int:
    """Answer one request and return the exit code."""
    request_file, answer_file = map(Path, arguments)
    request = config_from_json(FeatureRequest, json.loads(request_file.read_text()), str(request_file))
    try:
        render_feature_views(request).save(answer_file)
    except PipelineError as error:
        logger.error("%s", error)  # noqa: TRY400 - one line for people
        write_result(answer_file.with_name(f"{answer_file.name}.error"), {}, error)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
