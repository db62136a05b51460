"""Parts that the extractions of all image teachers share: provenance, progress and figures."""

import time

import numpy as np
import zarr
from jaxtyping import Bool

from storage.digests import config_digest, config_json
from storage.errors import ErrorKind, MissingTargetError
from storage.progress import ProgressCallback
from storage.scenes.store import SceneReader
from storage.stores.arrays import write_target
from storage.stores.provenance import Provenance, joined_licences, package_versions
from storage.stores.versioned import Home, StoreVersion
from teachers.config import FeatureBasisConfig, ImageTeacherConfig
from teachers.image.weights import WeightsFolder

_PACKAGES = ("torch", "transformers", "numpy", "pillow", "safetensors")


def version_of(reader: SceneReader) -> StoreVersion:
    """Return the version that a reader reads; targets without one could not be traced.

    Raises:
        MissingTargetError: If the reader was made from a bare group.
    """
    if reader.version is None:
        raise MissingTargetError(ErrorKind.STORE_MISSING, str(reader.group.name), "the scene has no published version")
    return reader.version


def provenance_of(
    home: Home,
    *,
    kind: str,
    partition: str,
    inputs: tuple[StoreVersion, ...],
    config: ImageTeacherConfig | FeatureBasisConfig,
    weights: WeightsFolder,
    code: str,
    seed: int | None = None,
) -> Provenance:
    """Return the provenance of a model's output for some inputs.

    Args:
        home: Home of the inputs.
        kind: Kind of the result.
        partition: Partition of the result.
        inputs: Versions read.
        config: Configuration; its determining part enters the digest.
        weights: The checkpoint used.
        code: Digest of the code that is run.
        seed: Seed of every random choice.
    """
    used = tuple(v.as_input for v in inputs)
    determining = config.determining()
    return Provenance(
        kind=kind,
        partition=partition,
        inputs=used,
        config_digest=config_digest(determining),
        code_digest=code,
        seed=seed,
        weights_digests=weights.digests,
        licence=joined_licences((home.licence_of(used), weights.licence)),
        config=config_json(determining),
        packages=package_versions(*_PACKAGES),
    )


def mark_own_vehicle(
    group: zarr.Group, kind: str, reader: SceneReader, size: tuple[int, int]
) -> Bool[np.ndarray, "cameras height width"]:
    """Return which cells of each camera's grid show the world alone, and store that where a camera sees its vehicle.

    A cell that a pixel of the vehicle falls into is not valid. What a model says of it is neither judged nor learned.
    """
    is_valid = np.stack([reader.is_valid(camera, size=size) for camera in range(reader.num_cameras)])
    if not is_valid.all():
        write_target(group, kind, "is_valid", is_valid)
    return is_valid


class Progress:
    """Progress report with the share of images done and the rate.

    Args:
        stage: Name of the step.
        total: Number of images.
        report: The caller's function, or None.
    """

    def __init__(self, stage: str, total: int, report: ProgressCallback | None) -> None:
        self._stage, self._total, self._report = stage, total, report
        self._done, self._started = 0, time.perf_counter()

    def advance(self, images: int) -> None:
        """Count images as done."""
        self._done += images
        if self._report is not None:
            rate = self.images_per_second
            remaining = (self._total - self._done) / max(rate, 1e-9)
            self._report(self._stage, self._done / self._total, {"images_per_s": rate, "eta_s": remaining})

    @property
    def images_per_second(self) -> float:
        """Return the rate so far, of decoding and model together."""
        return self._done / max(time.perf_counter() - self._started, 1e-9)
