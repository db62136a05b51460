"""Input images: every image of a scene at the size a model reads, with the intrinsics that go with it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import zarr

from storage.code import code_digest
from storage.digests import config_digest, config_json
from storage.grid_size import check_size, settled_size
from storage.keys import SceneKey
from storage.kinds import Kind
from storage.progress import ProgressCallback
from storage.scenes.store import SceneReader
from storage.stores.arrays import create_target, write_target
from storage.stores.provenance import Provenance, package_versions
from storage.stores.versioned import Home, Materialized, materialize_arrays

KIND = Kind.INPUT_IMAGES
_NUM_WORKERS = 2  # decoding and resizing release the interpreter lock


@dataclass(frozen=True, slots=True, kw_only=True)
class InputImagesConfig:
    """Size of the images that models read.

    Attributes:
        height: Rows, pixels; None follows the student.
        width: Columns, pixels; None follows the student. If the aspect differs from the camera's, fx and fy are scaled
            by different factors.
    """

    height: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        check_size(self.height, self.width, of="input_images")

    @property
    def size(self) -> tuple[int, int]:
        """Return rows and columns.

        Raises:
            ValueError: If one of them is still open.
        """
        return settled_size(self.height, self.width, of="input_images")


def resize_scene_images(
    home: Home,
    scene_key: SceneKey,
    config: InputImagesConfig,
    *,
    on_progress: ProgressCallback | None = None,
) -> Materialized:
    """Return the resized images of a scene's current version, making them if they do not exist.

    Args:
        home: Home of the scene and of the images.
        scene_key: The scene.
        config: Size of the images.
        on_progress: Called with a stage, the fraction done and numbers worth showing.

    Raises:
        MissingTargetError: If the scene was never ingested.
        IntegrityError: If its store has lost data.
    """
    version = home.require(Kind.SCENE, str(scene_key))
    scene = SceneReader(home.open_arrays(version), version)
    upstream = home.provenance(version)
    provenance = Provenance(
        kind=KIND,
        partition=str(scene_key),
        inputs=(version.as_input,),
        config_digest=config_digest(config),
        code_digest=code_digest(__name__, kind=KIND),
        calibration_digest=upstream.calibration_digest,
        licence=upstream.licence,
        config=config_json(config),
        packages=package_versions("icechunk", "numpy", "pillow", "zarr"),
    )

    def write(group: zarr.Group) -> dict[str, Any]:
        size = height, width = config.size
        cameras = range(scene.num_cameras)
        intrinsics = np.stack([scene.intrinsics(camera, size=size) for camera in cameras])
        write_target(group, KIND, "intrinsics", intrinsics.astype(np.float64))
        write_target(group, KIND, "fisheye", np.stack([scene.fisheye(camera) for camera in cameras]))
        images = create_target(group, KIND, "image", (scene.num_frames, scene.num_cameras, *size, 3))
        group.attrs["camera_names"] = list(scene.camera_names)
        with ThreadPoolExecutor(_NUM_WORKERS) as pool:
            for frame in range(scene.num_frames):
                resize = partial(scene.resized_image, frame, height=height, width=width)
                images[frame] = np.stack(list(pool.map(resize, cameras)))
                if on_progress is not None:
                    on_progress("resize", (frame + 1) / scene.num_frames, {"frame": frame})
        return {"frames": scene.num_frames, "cameras": scene.num_cameras, **config_json(config)}

    return materialize_arrays(home, provenance, write)
