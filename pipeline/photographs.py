"""Posed photographs of a static scene, such as instant-ngp's, as a scene store: one camera, no LiDAR.

Only ``pipeline.teacher_benchmark`` reads them; ``distillnerf ingest manifest`` is the way in for recordings.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from storage.errors import ErrorKind, SourceDataError
from storage.keys import SceneKey
from storage.plain_json import parse_json
from storage.scenes.schema import SceneData
from storage.scenes.store import write_scene
from storage.stores.integrity import machine_faults
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, materialize_arrays

_OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
_INTERVAL_US = 500_000


def publish_photographs(home: Home, folder: Path, key: SceneKey, *, height: int, stride: int = 1) -> None:
    """Publish the photographs of a ``transforms.json`` as a scene, undistorted and made smaller.

    Lengths are as in the file: their unit counts as a metre.

    Args:
        home: Home of the scene.
        folder: Folder of ``transforms.json``, whose poses have OpenGL axes.
        key: Key of the scene.
        height: Rows of the images, pixels.
        stride: Every so many-th photograph is taken.

    Raises:
        SourceDataError: If the file is missing or lacks something.
    """
    path = folder / "transforms.json"
    try:
        with machine_faults(str(path)):
            told: dict[str, Any] = parse_json(path.read_text())
        frames = sorted(told["frames"], key=lambda frame: frame["file_path"])[::stride]
        full = np.array([[told["fl_x"], 0, told["cx"]], [0, told["fl_y"], told["cy"]], [0, 0, 1]])
        distortion = tuple(float(told.get(name, 0.0)) for name in ("k1", "k2", "p1", "p2"))
        scale = height / told["h"]
        poses = np.stack([np.array(frame["transform_matrix"]) @ _OPENGL_TO_OPENCV for frame in frames])
    except (OSError, KeyError, ValueError) as error:
        raise SourceDataError(ErrorKind.FILE_CORRUPT, str(path), f"no posed photographs: {error}") from error
    size = (height, round(told["w"] * scale))
    intrinsics = np.diag([size[1] / told["w"], scale, 1.0]) @ full
    jpegs = []
    for frame in frames:
        image = Image.open(folder / frame["file_path"]).convert("RGB").resize((size[1], size[0]), Image.Resampling.BOX)
        encoded = io.BytesIO()
        Image.fromarray(undistort(np.asarray(image), intrinsics, distortion)).save(encoded, "JPEG", quality=95)
        jpegs.append((encoded.getvalue(),))
    times = _INTERVAL_US * np.arange(len(frames), dtype=np.int64)
    data = SceneData(
        camera_names=("camera",),
        image_sizes=(size,),
        intrinsics=intrinsics[None],
        camera_to_ego=np.eye(4)[None],
        timestamp_us=times,
        ego_to_world=poses,
        camera_timestamp_us=times[:, None],
        camera_ego_to_world=poses[:, None],
        jpegs=tuple(jpegs),
        lidar_points=(np.zeros((0, 4), np.float32),) * len(frames),
        lidar_to_ego=np.eye(4),
    )
    provenance = Provenance(kind="scene", partition=str(key), code_digest=f"photographs {height} {stride}")
    materialize_arrays(home, provenance, lambda group: write_scene(group, data) or {})


def undistort(
    image: UInt8[np.ndarray, "height width 3"],
    intrinsics: Float[np.ndarray, "3 3"],
    distortion: tuple[float, ...],
) -> UInt8[np.ndarray, "height width 3"]:
    """Return the image that a pinhole with the same intrinsics sees; what lies outside repeats the border.

    Args:
        image: Photograph of a lens with radial and tangential distortion.
        intrinsics: Intrinsics of the photograph, pixels; (0, 0) is the corner of the first pixel.
        distortion: Coefficients k1, k2, p1, p2 of the model of OpenCV.
    """
    height, width = image.shape[:2]
    k1, k2, p1, p2 = distortion
    rows, columns = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    x = (columns - intrinsics[0, 2]) / intrinsics[0, 0]
    y = (rows - intrinsics[1, 2]) / intrinsics[1, 1]
    r2 = x * x + y * y
    radial = 1.0 + r2 * (k1 + r2 * k2)
    u = intrinsics[0, 0] * (x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)) + intrinsics[0, 2] - 0.5
    v = intrinsics[1, 1] * (y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y) + intrinsics[1, 2] - 0.5
    u, v = u.clip(0, width - 1), v.clip(0, height - 1)
    left, top = (np.minimum(np.floor(c).astype(int), n - 2) for c, n in ((u, width), (v, height)))
    a, b = (u - left)[..., None], (v - top)[..., None]
    upper = (1 - a) * image[top, left] + a * image[top, left + 1]
    lower = (1 - a) * image[top + 1, left] + a * image[top + 1, left + 1]
    return ((1 - b) * upper + b * lower).round().astype(np.uint8)
