"""Render a scene's field from any view, in nerfstudio's environment: colours, surface points and features.

``python -m teachers.nerf.feature_views REQUEST.json FOLDER`` leaves one file for each view, in order, as soon as it is
rendered, and its error, if it has one, as the worker does, in ``FOLDER/error.json``. Exit codes are the worker's.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from storage.config_json import config_from_json
from storage.errors import ErrorKind, PipelineError, ProvenanceMismatchError
from storage.kinds import Kind
from storage.previews.pictures import to_uint8
from storage.stores.versioned import Home
from teachers.nerf.feature_request import ERROR_FILE, FeatureReading, FeatureRequest, answer_file
from teachers.nerf.task import write_result

logger = logging.getLogger("teachers.nerf.feature_views")


def render_feature_views(request: FeatureRequest) -> Iterator[FeatureReading]:
    """Yield the views that are asked for, one by one.

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
    field = None
    if request.digest:
        version = home.require(Kind.FEATURE_FIELD, request.scene_key, request.digest)
        assert source.teacher.version is not None
        if source.teacher.version.as_input not in home.provenance(version).inputs:
            message = f"was distilled into another field than {source.teacher.version}"
            raise ProvenanceMismatchError(ErrorKind.DIGEST_MISMATCH, str(version), message)
        field = load_feature_field(home.open_files(version, verify=True)).to(source.teacher.device).eval()
    size = (request.height, request.width)
    intrinsics = source.intrinsics(size)
    for view in request.views:
        pose = source.scene.camera_to_world(view.frame, view.camera) @ np.array(view.virtual_to_camera)
        rendered = source.render(view.frame, view.camera, pose, size)
        rays = source.rays(view.frame, view.camera, pose, size)
        is_solid = (rendered.opacity >= source.teacher.nerf.min_opacity) & source.is_seen(view.camera, size)
        depth = np.where(is_solid.numpy(), rendered.termination_depth.numpy(), np.nan).astype(np.float32)
        ends = pose[:3, 3] + rays.directions.numpy() * depth[:, None]
        features: dict[str, np.ndarray] = {}
        if field is not None:
            surface = source.teacher.surface(rays, num_samples=SAMPLES_PER_RAY)
            for name in field.description.num_channels:
                reduced = render_features(field, surface, name).astype(np.float16)
                features[name] = reduced.reshape(1, *size, -1)
        yield FeatureReading(
            frame_index=np.array([view.frame]),
            camera_index=np.array([view.camera]),
            camera_to_world=pose[None],
            intrinsics=intrinsics[[view.camera]],
            rgb=to_uint8(rendered.rgb.numpy()).reshape(1, *size, 3),
            termination_depth=depth.reshape(1, *size),
            points_world=ends.astype(np.float32).reshape(1, *size, 3),
            features=features,
        )


def main(arguments: list[str]) -> int:
    """Answer one request and return the exit code."""
    request_file, folder = map(Path, arguments)
    request = config_from_json(FeatureRequest, json.loads(request_file.read_text()), str(request_file))
    try:
        for index, reading in enumerate(render_feature_views(request)):
            aside = folder / "aside.npz"
            reading.save(aside)
            os.replace(aside, answer_file(folder, index))  # whoever waits for it sees all of it or nothing
    except PipelineError as error:
        logger.error("%s", error)  # noqa: TRY400 - one line for people
        write_result(folder / ERROR_FILE, {}, error)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
