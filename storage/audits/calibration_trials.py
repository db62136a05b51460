"""Measure how often the audit calls a right calibration wrong, and how often a wrong one.

``python -m storage.audits.calibration_trials --trials 50`` prints a line for each trial, and the sums. Trials are
procedural scenes seen by rigs of random make (:mod:`storage.audits.trial_scenes`), whose calibration is exact. Errors
are most of the work: ``--clean`` makes none, and counts false alarms alone.
"""

import argparse
import logging
from collections import Counter

import numpy as np

from storage.audits.calibration import calibration_frames, fit_alone, fit_together, look_at, small_changes
from storage.audits.calibration_evidence import Evidence
from storage.audits.sweep_alignment import align_sweeps
from storage.audits.trial_scenes import TrialScene, trial_scene
from storage.geometry.distortion import LensDistortion

logger = logging.getLogger(__name__)

_ERRORS_OF_EACH = 6
_LENSES = (-0.3, -0.15, 0.15)
"""Radial coefficients k1 of lenses that images without distortion are said to have."""


def try_clean(scene: TrialScene) -> Counter[str]:
    """Return how many fits of the exact calibration there were, and how many failed.

    Args:
        scene: A trial.
    """
    frames, found = calibration_frames(scene), Counter[str]()
    views = look_at(scene, frames, Evidence())
    fits = [fit_together(views)]
    fits += [fit_alone([view for view in views if view.camera == c]) for c in range(scene.num_cameras)]
    found["clean fits"], found["clean scenes"] = len(fits), 1
    found["false alarms"] = sum(fit.is_wrong for fit in fits)
    found["scenes with a false alarm"] = int(found["false alarms"] > 0)
    found["scenes with sweeps called wrong"] = int(align_sweeps(scene, frames).is_wrong)
    return found


def try_errors(scene: TrialScene, number: int, *, scale: float) -> Counter[str]:
    """Return how many errors of rig and of one camera were made, and how many were found.

    Args:
        scene: A trial.
        number: Its number, which draws the errors that are made.
        scale: Size of the errors, in half degrees and decimetres.
    """
    evidence, frames, errors = Evidence(), calibration_frames(scene), small_changes(scale)
    rng, found = np.random.default_rng(number), Counter[str]()
    for name in rng.permutation(list(errors))[:_ERRORS_OF_EACH]:
        scene.error, scene.only_camera = errors[name], None
        found[f"rig, {name[:4]}: made"] += 1
        found[f"rig, {name[:4]}: found"] += int(fit_together(look_at(scene, frames, evidence)).is_wrong)
    for name in rng.permutation(list(errors))[:_ERRORS_OF_EACH]:
        camera = int(rng.integers(scene.num_cameras))
        scene.error, scene.only_camera = errors[name], camera
        found[f"one camera, {name[:4]}: made"] += 1
        found[f"one camera, {name[:4]}: found"] += int(fit_alone(look_at(scene, frames, evidence, (camera,))).is_wrong)
    scene.error, scene.only_camera = np.eye(4), None
    for k1 in _LENSES:
        bent = scene.undistorted_again(LensDistortion(k1=k1))
        found["undistorted again: made"] += 1
        found["undistorted again: found"] += int(fit_together(look_at(bent, frames, Evidence())).is_wrong)
    return found


def main() -> None:
    """Print what was found in each trial, and the sums."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the errors, in half degrees and decimetres")
    parser.add_argument("--clean", action="store_true", help="make no errors: count false alarms alone")
    parser.add_argument("--stands", action="store_true", help="the vehicle stands still")
    arguments = parser.parse_args()
    total = Counter[str]()
    for number in range(arguments.first, arguments.first + arguments.trials):
        scene = trial_scene(number, stands=arguments.stands)
        found = try_clean(scene)
        if not arguments.clean:
            found += try_errors(scene, number, scale=arguments.scale)
        total += found
        logger.info("trial %d: %s", number, dict(found))
    for name, count in sorted(total.items()):
        logger.info("%s: %d", name, count)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
