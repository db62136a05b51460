"""The audit of a scene's geometry as a version of its own, with a gate: no student learns from a scene that fails it.

The audit reads the scene alone. Scenes do not change when the audit does, so nothing that was made from them is made
again, only the verdict.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from storage.audits.calibration import calibration_frames, fit_rig
from storage.audits.calibration_picture import calibration_picture, suspect_of
from storage.audits.finding import Finding
from storage.audits.stored_versions import audit_calibration
from storage.code import code_digest
from storage.keys import SceneKey
from storage.kinds import Kind
from storage.previews.thumbnails import calibration_jpeg
from storage.scenes.store import SceneReader
from storage.stores.gate_record import QUALITY
from storage.stores.provenance import Provenance, package_versions
from storage.stores.versioned import Home, Materialized, materialize_files

KIND = Kind.SCENE_AUDIT

CAMERA_PICTURE = "camera.jpg"
"""One camera at full resolution, before and after the change that fits best."""

RIG_PICTURE = "preview.jpg"
"""All cameras, small."""

_HINT = (
    "look at camera.jpg (`distillnerf audit SCENE --picture FILE.jpg` draws it anew); if the calibration is right, "
    "--split.allow-ungated scene_audit goes on"
)


def audit_scene(home: Home, scene_key: SceneKey) -> Materialized:
    """Return the audit of a scene's current version, making it if it does not exist.

    A calibration that looks wrong is no error here: the gate of the version fails.

    Args:
        home: Home of the scene and of its audit.
        scene_key: The scene.

    Raises:
        MissingTargetError: If the scene was never ingested.
        IntegrityError: If its store has lost data.
    """
    version = home.require(Kind.SCENE, str(scene_key))
    upstream = home.provenance(version)
    provenance = Provenance(
        kind=KIND,
        partition=str(scene_key),
        inputs=(version.as_input,),
        code_digest=code_digest(__name__, kind=KIND),
        calibration_digest=upstream.calibration_digest,
        licence=upstream.licence,
        packages=package_versions("numpy", "pillow", "scipy"),
    )

    def write(folder: Path) -> dict[str, Any]:
        reader = SceneReader(home.open_arrays(version), version)
        fit = fit_rig(reader, calibration_frames(reader))
        (folder / CAMERA_PICTURE).write_bytes(calibration_picture(reader, suspect_of(fit)))
        (folder / RIG_PICTURE).write_bytes(calibration_jpeg(home, version))
        return {QUALITY: gate_of(audit_calibration(home, version, fit))}

    return materialize_files(home, provenance, write)


def gate_of(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return findings as the record of a gate: it passes when none failed and one at least was decided."""
    outcomes = [finding.outcome for finding in findings]
    return {
        "passed": "failed" not in outcomes and "passed" in outcomes,
        "checks": {finding.name: _check(finding) for finding in findings},
    }


def _check(finding: Finding) -> dict[str, Any]:
    outcome = finding.outcome
    check: dict[str, Any] = {
        "value": finding.value,
        "threshold": finding.threshold,
        "passed": outcome == "passed",
        "where": finding.where,
    }
    if outcome == "undecided":
        check["undecided"] = finding.where or "too little was seen"
    return check | ({"hint": _HINT} if outcome == "failed" else {})
