"""Measure which errors of calibration the audit finds.

``python -m storage.audits.calibration_power`` runs it.

The camera poses of a calibrated scene are made wrong on purpose, by every small change in turn: first those of the
whole rig, then that of each camera.
"""

import argparse
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from storage.audits.calibration import (
    CalibrationFit,
    calibration_frames,
    fit_alone,
    fit_together,
    look_at,
    small_changes,
)
from storage.audits.calibration_evidence import Evidence
from storage.audits.misplaced_cameras import MisplacedCameras
from storage.kinds import Kind
from storage.stores.places import store_url_from_environment
from storage.stores.versioned import Home

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Errors that the audit finds in one scene.

    Attributes:
        subject: "rig" or the name of a camera.
        false_alarm: Whether the true calibration is called wrong.
        told: Number of small errors that the audit says it would find.
        found: Number of small errors that it did find.
        missed: Names of the small errors that it did not find.
    """

    subject: str
    false_alarm: bool
    told: int
    found: int
    missed: tuple[str, ...]


def measure_power(reader: MisplacedCameras, *, scale: float = 1.0) -> Iterator[Power]:
    """Make every small error, and yield what the audit found for the rig and then for each camera.

    Args:
        reader: A calibrated scene.
        scale: Size of the errors, in half degrees and decimetres.
    """
    evidence, errors = Evidence(), small_changes(scale)
    for camera in (None, *range(reader.num_cameras)):
        exact = _fit(reader, evidence, camera, np.eye(4))
        missed = tuple(name for name, error in errors.items() if not _fit(reader, evidence, camera, error).is_wrong)
        yield Power(
            subject="rig" if camera is None else reader.camera_names[camera],
            false_alarm=exact.is_wrong,
            told=len(errors) - len(exact.untold),
            found=len(errors) - len(missed),
            missed=missed,
        )


def _fit(
    reader: MisplacedCameras, evidence: Evidence, camera: int | None, error: Float[np.ndarray, "4 4"]
) -> CalibrationFit:
    reader.error, reader.only_camera = error, camera
    frames = calibration_frames(reader)
    if camera is None:
        return fit_together(look_at(reader, frames, evidence))
    return fit_alone(look_at(reader, frames, evidence, (camera,)))


def main() -> None:
    """Print one line for each rig and camera of each scene, and the sums."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenes", nargs="+", help="keys of ingested scenes whose calibration is right")
    parser.add_argument("--home", type=Path, default=Path("home"))
    parser.add_argument(
        "--store-url", default=store_url_from_environment(), help="s3://bucket/prefix, if stores are not in the home"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="size of the errors: of half degrees and decimetres")
    arguments = parser.parse_args()
    home = Home(arguments.home, store_url=arguments.store_url)
    for scene in arguments.scenes:
        version = home.require(Kind.SCENE, scene)
        reader = MisplacedCameras(home.open_arrays(version), version)
        for power in measure_power(reader, scale=arguments.scale):
            alarm = "false alarm" if power.false_alarm else "passes"
            line = f"{scene} {power.subject}: {alarm}, told {power.told}, found {power.found}"
            logger.info("%s; missed: %s", line, ", ".join(power.missed) or "none")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
