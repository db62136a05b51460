"""Evidence that judges a student: what was chosen and counted on its own training frames, before any frame is scored.

It is a file beside an evaluation, and travels with a packed student, so that scenes anywhere are judged by the same
threshold, calibration, temperature and trivial predictors.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from storage.geometry.rays import camera_rays
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.stores.integrity import reading_weights
from student.evaluation.baselines import VoxelPrior, ground_plane_depth
from student.evaluation.operating_point import OperatingPoint
from student.evaluation.sections.occupancy import OccupancyFit
from student.model.types import TargetCameras

EVIDENCE_FILE = "training_evidence.safetensors"
_FORMAT = "distillnerf.evidence/1"
_USUAL_RETURN_M = 15.0
"""Where flat ground ends for a student that knows no training return: about the median on nuScenes' drives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentEvidence:
    """What training frames say: tuned values, and predictors that ignore the input.

    Attributes:
        occupancy: Threshold and calibration; None unless true voxels were both occupied and free.
        density: The same for the density alone, of a student with an occupancy head.
        temperature: Softmax temperature of words; None if nothing true could fit one.
        median_return: Median LiDAR return, metres; None without returns.
        mean_images: Mean image of each camera, for each shape of a frame's images.
        mean_features: Mean feature, by source.
        prior: Counts of each label in each voxel.
        frames: Frames that all of this was taken from, by scene.
    """

    occupancy: OccupancyFit | None = None
    density: OccupancyFit | None = None
    temperature: float | None = None
    median_return: float | None = None
    mean_images: tuple[Float32[np.ndarray, "views height width 3"], ...] = ()
    mean_features: Mapping[str, Float32[np.ndarray, " channels"]] = field(default_factory=dict)
    prior: VoxelPrior = field(default_factory=lambda: VoxelPrior(grid=OCC3D_GRID))
    frames: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of_operating_point(cls, point: OperatingPoint) -> "StudentEvidence":
        """Return the evidence of a student that brings its calibration and no statistics of its training frames."""
        if point.calibration is None:
            return cls()
        occupancy = OccupancyFit(
            threshold=point.threshold,
            threshold_above_ground=point.threshold_above_ground,
            training_iou=None,
            calibration=point.calibration,
            num_voxels=0,
        )
        return cls(occupancy=occupancy)

    def mean_image(self, shape: tuple[int, ...]) -> Float32[np.ndarray, "views height width 3"] | None:
        """Return each camera's mean training image; None if no training frame had this shape."""
        return next((image for image in self.mean_images if image.shape == shape), None)

    def mean_feature(self, source: str) -> Float32[np.ndarray, " channels"] | None:
        """Return the mean training feature of a source; None if no training frame had one."""
        return self.mean_features.get(source)

    def depths(self, cameras: TargetCameras) -> dict[str, Float32[np.ndarray, "views height width"]]:
        """Return the depth of two baselines in these cameras, metres: flat ground, and the median training return.

        Flat ground ends at that median, or at a usual one if no training frame had a LiDAR return.
        """
        median = self.median_return
        elsewhere = _USUAL_RETURN_M if median is None else median
        plane = np.stack([ground_plane_depth(*rays, elsewhere=elsewhere) for rays in _rays(cameras)]).astype(np.float32)
        if median is None:
            return {f"flat ground, else {_USUAL_RETURN_M:.0f} m": plane}
        return {"flat ground, else the median": plane, "median training return": np.full_like(plane, median)}

    def save(self, folder: Path) -> None:
        """Write the evidence into a folder; images are rounded to half precision there."""
        voxels, labels, counts = self.prior.sparse()
        arrays = {
            "prior/voxels": voxels,
            "prior/labels": labels,
            "prior/counts": counts,
            **{f"mean_image/{i}": image.astype(np.float16) for i, image in enumerate(self.mean_images)},
            **{f"mean_feature/{source}": mean for source, mean in self.mean_features.items()},
        }
        record = {
            "format": _FORMAT,
            **{
                name: None if fit is None else fit.to_json()
                for name, fit in (("occupancy", self.occupancy), ("density", self.density))
            },
            "temperature": self.temperature,
            "median_return": self.median_return,
            "frames": {scene: list(frames) for scene, frames in self.frames.items()},
        }
        save_file(arrays, folder / EVIDENCE_FILE, metadata={"evidence": json.dumps(record)})

    @classmethod
    def load(cls, folder: Path) -> "StudentEvidence":
        """Read the evidence of a folder.

        Raises:
            MissingTargetError: If there is none.
            IntegrityError: If it is damaged or of another format.
        """
        path = folder / EVIDENCE_FILE
        if not path.is_file():
            raise MissingTargetError(
                ErrorKind.TARGET_MISSING,
                str(path),
                "no such file: evaluate the student on its own split first (`distillnerf evaluate`), and pack it again "
                "if it travels",
            )
        try:
            with reading_weights(path), safe_open(path, framework="np") as file:
                record: dict[str, Any] = json.loads((file.metadata() or {}).get("evidence", "{}"))
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError, ValueError) as error:
            raise IntegrityError(ErrorKind.STORE_CORRUPT, str(path), f"cannot be read: {error}") from error
        if record.get("format") != _FORMAT:
            raise IntegrityError(
                ErrorKind.SCHEMA_UNKNOWN, str(path), f"format {record.get('format')!r}, want {_FORMAT!r}"
            )
        names = sorted(name for name in arrays if name.startswith("mean_image/"))
        features = {name.partition("/")[2]: a for name, a in arrays.items() if name.startswith("mean_feature/")}
        # Evidence from before knew no density apart.
        given = {name: record.get(name) for name in ("occupancy", "density")}
        fits = {n: None if of is None else OccupancyFit.from_json(of, f"{path}.{n}") for n, of in given.items()}
        return cls(
            **fits,
            temperature=record["temperature"],
            median_return=record["median_return"],
            mean_images=tuple(arrays[name].astype(np.float32) for name in names),
            mean_features=features,
            prior=VoxelPrior.from_sparse(
                OCC3D_GRID, arrays["prior/voxels"], arrays["prior/labels"], arrays["prior/counts"]
            ),
            frames={scene: tuple(frames) for scene, frames in record["frames"].items()},
        )


def above_horizon(cameras: TargetCameras) -> Bool[np.ndarray, "views height width"]:
    """Return True for rays that point upwards, which see the sky if the ground is flat."""
    return np.stack([directions[..., 2] > 0 for _, directions in _rays(cameras)])


def _rays(
    cameras: TargetCameras,
) -> list[tuple[Float[np.ndarray, "height width 3"], Float[np.ndarray, "height width 3"]]]:
    """Return origins and unit directions of every view's rays in the ego frame."""
    intrinsics, poses = cameras.intrinsics[0].double().numpy(), cameras.camera_to_reference_ego[0].double().numpy()
    fisheye = [None] * len(poses) if cameras.fisheye is None else cameras.fisheye[0].double().numpy()
    height, width = cameras.render_height, cameras.render_width
    return [
        camera_rays(matrix, pose, height=height, width=width, fisheye=lens)
        for matrix, pose, lens in zip(intrinsics, poses, fisheye, strict=True)
    ]
