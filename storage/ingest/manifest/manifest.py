"""The rig manifest: a recording of any vehicle, described by one JSON file and a few Parquet tables.

``rig_manifest.schema.json`` beside this module says what the JSON holds, for any validator, and ``tables`` what the
tables hold. What a schema cannot express is checked here: unit quaternions, names that are used twice.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from storage.errors import ErrorKind, SourceDataError
from storage.geometry.transforms import from_rotation_translation, quat_wxyz_to_rotation
from storage.ingest.raw_files import read_bytes
from storage.keys import check_name
from storage.plain_json import parse_json

RIG_MANIFEST_SCHEMA = "distillnerf.rig_manifest/1"
RIG_MANIFEST_FILE = "rig_manifest.json"
DATA_FILES = ("rig_manifest.schema.json",)
_MAX_QUATERNION_DEFECT = 1e-4  # writers round quaternions to a few digits; they are normalised on reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounting:
    """Pose of a sensor on the vehicle.

    Attributes:
        translation_m: Origin of the sensor in the ego frame, metres.
        rotation_wxyz: Sensor-to-ego rotation, a unit quaternion. A camera's axes are OpenCV's.
    """

    translation_m: tuple[float, float, float]
    rotation_wxyz: tuple[float, float, float, float]

    @property
    def sensor_to_ego(self) -> Float[np.ndarray, "4 4"]:
        """Return the sensor-to-ego transform."""
        rotation = quat_wxyz_to_rotation(np.array(self.rotation_wxyz, np.float64))
        return from_rotation_translation(rotation, np.array(self.translation_m, np.float64))


@dataclass(frozen=True, slots=True, kw_only=True)
class RigCamera:
    """One calibrated camera.

    Attributes:
        name: Name, unique on its rig.
        model: Lens model.
        width: Columns of its images.
        height: Rows of its images.
        intrinsics: fx, fy, cx, cy of the images as recorded, pixels.
        distortion: k1, k2, p1, p2, k3 of a pinhole, k1 to k4 of a fisheye; None for an ideal pinhole.
        camera_to_ego: Pose on the vehicle.
        valid_mask: PNG file, 0 where a pixel never shows the world; None if all pixels do.
    """

    name: str
    model: Literal["pinhole", "fisheye"]
    width: int
    height: int
    intrinsics: Mapping[str, float]
    distortion: Mapping[str, float] | None = None
    camera_to_ego: Mounting
    valid_mask: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RigLidar:
    """The LiDAR whose sweeps belong to the frames.

    Attributes:
        name: Name, unique on its rig.
        lidar_to_ego: Pose on the vehicle.
    """

    name: str
    lidar_to_ego: Mounting


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """One calibrated vehicle.

    Attributes:
        pixel_origin: Whether (0, 0) of the intrinsics is the first pixel's corner, as in this project, or its centre.
        cameras: Cameras, at least one, in the order of every camera axis.
        lidar: The LiDAR; None if the rig has none.
    """

    pixel_origin: Literal["corner", "centre"]
    cameras: tuple[RigCamera, ...]
    lidar: RigLidar | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RigScene:
    """One recorded drive; the files are Parquet tables relative to the manifest.

    Attributes:
        name: Name, unique in the manifest.
        rig: Name of the rig that recorded it.
        poses: Table of the vehicle's trajectory.
        frames: Table of reference instants and sweeps.
        images: Table of exposures and image files.
        boxes: Table of annotations; None if there are none.
        description: Free text for people.
        location: Place of the drive, for people.
    """

    name: str
    rig: str
    poses: str
    frames: str
    images: str
    boxes: str | None = None
    description: str = ""
    location: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RigManifest:
    """A parsed rig manifest.

    Attributes:
        name: Name of the data set.
        version: Release of the data set.
        licence: Terms of use.
        rigs: Rigs by name.
        scenes: Scenes in the manifest's order. Names are checked later, so that one bad name does not hide other
            scenes.
        description: Free text for people.
    """

    name: str
    version: str
    licence: str
    rigs: Mapping[str, Rig]
    scenes: tuple[RigScene, ...]
    description: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON document; fields that are None or empty are left out."""
        return _without_empty({"schema": RIG_MANIFEST_SCHEMA, **asdict(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestProblem:
    """One fault of a manifest.

    Attributes:
        field: Path of the field, such as ``rigs.tug.cameras[0].intrinsics.fx``.
        message: The value seen and the value wanted.
        kind: Kind of the fault.
    """

    field: str
    message: str
    kind: ErrorKind = ErrorKind.TABLE_INVALID


def manifest_schema() -> dict[str, Any]:
    """Return the JSON Schema that is shipped with the package."""
    return json.loads(Path(__file__).with_name(*DATA_FILES).read_text())


def find_problems(document: object) -> list[ManifestProblem]:
    """Return all faults of a parsed manifest, in the order of the document; empty if it is valid."""
    if isinstance(document, dict) and document.get("schema") not in (None, RIG_MANIFEST_SCHEMA):
        message = f"is {document['schema']!r}, this version reads {RIG_MANIFEST_SCHEMA!r}"
        return [ManifestProblem(field="schema", message=message, kind=ErrorKind.VERSION_UNKNOWN)]
    errors = sorted(_validator().iter_errors(document), key=lambda e: [str(part) for part in e.absolute_path])
    problems = [problem for error in errors for problem in _as_problems(error)]
    if problems:
        return list(dict.fromkeys(problems))
    assert isinstance(document, dict)
    return [*_semantic_problems(document)]


def parse_manifest(document: object) -> RigManifest:
    """Return a parsed manifest.

    Raises:
        SourceDataError: If the document is not valid; the key ends in the path of the first wrong field.
    """
    if problems := find_problems(document):
        first = problems[0]
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise SourceDataError(first.kind, f"{RIG_MANIFEST_FILE}: {first.field}", first.message + more)
    assert isinstance(document, dict)
    fields = {k: v for k, v in document.items() if k != "schema"}
    return RigManifest(
        **{
            **fields,
            "rigs": {name: _rig(rig) for name, rig in document["rigs"].items()},
            "scenes": tuple(RigScene(**scene) for scene in document["scenes"]),
        }
    )


def load_manifest(root: Path) -> RigManifest:
    """Read ``rig_manifest.json`` at the root of a recording.

    Raises:
        SourceDataError: If the file is missing, no JSON, of another schema version, or invalid.
    """
    path = root / RIG_MANIFEST_FILE
    if not path.is_file():
        raise SourceDataError(ErrorKind.FILE_MISSING, str(path), "is not there; it describes the recording")
    try:
        document = parse_json(read_bytes(path, RIG_MANIFEST_FILE), parse_constant=_refuse_constant)
    except ValueError as error:  # no JSON, no UTF-8, or a number that JSON does not know
        raise SourceDataError(ErrorKind.TABLE_INVALID, RIG_MANIFEST_FILE, f"is not JSON: {error}") from error
    return parse_manifest(document)


def scene_names(manifest: RigManifest, *, on_rejected: Callable[[SourceDataError], None] | None = None) -> list[str]:
    """Return the names of the scenes whose name is valid and unique.

    Args:
        manifest: The recording.
        on_rejected: Called once with the error of each other name. Without it the first error is raised.

    Raises:
        SourceDataError: If a name is used twice or holds a reserved character, and ``on_rejected`` is None.
    """
    names = []
    for name in dict.fromkeys(scene.name for scene in manifest.scenes):
        try:
            names.append(find_scene(manifest, name).name)
        except SourceDataError as error:
            if on_rejected is None:
                raise
            on_rejected(error)
    return names


def find_scene(manifest: RigManifest, name: str) -> RigScene:
    """Return the scene of that name.

    Raises:
        SourceDataError: If no scene or several have that name, or the name cannot stand in a key.
    """
    found = [scene for scene in manifest.scenes if scene.name == name]
    if len(found) == 1:
        check_name(name)
        return found[0]
    if found:
        message = f"{len(found)} scenes are named {name!r}, want one"
        raise SourceDataError(ErrorKind.SCENE_DUPLICATE, f"{RIG_MANIFEST_FILE}: scenes", message)
    known = ", ".join(sorted({scene.name for scene in manifest.scenes})[:5])
    message = f"has no scene {name!r} among its {len(manifest.scenes)} ({known} ...)"
    raise SourceDataError(ErrorKind.SCENE_UNKNOWN, f"{RIG_MANIFEST_FILE}: scenes", message)


@cache
def _validator() -> Any:  # noqa: ANN401 - jsonschema's own protocol
    from jsonschema import Draft202012Validator

    return Draft202012Validator(manifest_schema())


def _as_problems(error: Any) -> list[ManifestProblem]:  # noqa: ANN401 - a jsonschema error
    """Return one problem for each field that an error is about; the path ends in the missing or unknown field."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    path = "".join(parts).removeprefix(".")
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return [ManifestProblem(field=_join(path, name), message="is missing") for name in missing]
    if error.validator == "additionalProperties":
        known = sorted(error.schema.get("properties", {}))
        unknown = [name for name in error.instance if name not in known]
        return [ManifestProblem(field=_join(path, name), message=f"is unknown, want {known}") for name in unknown]
    if "propertyNames" in error.absolute_schema_path:
        message = f"is unknown, want {error.validator_value}"
        return [ManifestProblem(field=_join(path, str(error.instance)), message=message)]
    if error.validator in ("const", "enum"):
        wanted = error.validator_value
        return [ManifestProblem(field=path, message=f"is {error.instance!r}, want {wanted!r}")]
    if error.validator == "maxItems":
        message = f"has {len(error.instance)} entries, want at most {error.validator_value}"
        return [ManifestProblem(field=path, message=message)]
    return [ManifestProblem(field=path or "the document", message=_short(error.message))]


def _semantic_problems(document: Mapping[str, Any]) -> list[ManifestProblem]:
    problems = []
    for rig_name, rig in document["rigs"].items():
        sensors = [(f"cameras[{i}]", camera, "camera_to_ego") for i, camera in enumerate(rig["cameras"])]
        if "lidar" in rig:
            sensors.append(("lidar", rig["lidar"], "lidar_to_ego"))
        seen: set[str] = set()
        for place, sensor, mounting in sensors:
            field = f"rigs.{rig_name}.{place}"
            if sensor["name"] in seen:
                problems.append(ManifestProblem(field=f"{field}.name", message=f"{sensor['name']!r} is used twice"))
            seen.add(sensor["name"])
            quat = sensor[mounting]["rotation_wxyz"]
            norm = float(np.linalg.norm(quat))
            if abs(norm - 1.0) > _MAX_QUATERNION_DEFECT:
                message = f"is {quat} of norm {norm:.6g}, want a unit quaternion"
                at = f"{field}.{mounting}.rotation_wxyz"
                problems.append(ManifestProblem(field=at, message=message, kind=ErrorKind.CALIBRATION_INVALID))
    for index, scene in enumerate(document["scenes"]):
        if scene["rig"] not in document["rigs"]:
            message = f"is {scene['rig']!r}, want one of {sorted(document['rigs'])}"
            problems.append(ManifestProblem(field=f"scenes[{index}].rig", message=message))
    return problems


def _rig(raw: Mapping[str, Any]) -> Rig:
    lidar = raw.get("lidar")
    return Rig(
        pixel_origin=raw["pixel_origin"],
        cameras=tuple(_camera(camera) for camera in raw["cameras"]),
        lidar=lidar and RigLidar(name=lidar["name"], lidar_to_ego=_mounting(lidar["lidar_to_ego"])),
    )


def _camera(raw: Mapping[str, Any]) -> RigCamera:
    numbers = {
        name: {k: float(v) for k, v in raw[name].items()} for name in ("intrinsics", "distortion") if name in raw
    }
    return RigCamera(**{**raw, **numbers, "camera_to_ego": _mounting(raw["camera_to_ego"])})


def _mounting(raw: Mapping[str, Any]) -> Mounting:
    x, y, z = (float(v) for v in raw["translation_m"])
    qw, qx, qy, qz = (float(v) for v in raw["rotation_wxyz"])
    return Mounting(translation_m=(x, y, z), rotation_wxyz=(qw, qx, qy, qz))


def _without_empty(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, Mapping):
        return {k: _without_empty(v) for k, v in value.items() if v not in (None, "")}
    return [_without_empty(v) for v in value] if isinstance(value, list | tuple) else value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"holds {name}, which is no JSON number")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _short(message: str) -> str:
    return message if len(message) <= 200 else f"{message[:97]} ... {message[-97:]}"
