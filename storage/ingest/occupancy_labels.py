"""Occupancy labels that lie beside a recording, in Occ3D's layouts, as a versioned store.

nuScenes has one file for each annotated sample, a rig manifest one for each frame: ``gts/<scene>/<token>/labels.npz``,
where the token of a manifest's frame is its index in six digits. Waymo has one for each frame in folders without names,
see :mod:`storage.ingest.waymo.occ3d`. Frames without a file are left without labels, and counted.
"""

from typing import Any

import numpy as np
import zarr

from storage.code import code_digest
from storage.ingest.known_digests import KnownDigests, known_digests
from storage.ingest.nuscenes.occ3d import Occ3dLabels, labels_file, parse_labels
from storage.ingest.source import load_source
from storage.ingest.source_files import SourceFiles
from storage.ingest.waymo.occ3d import parse_waymo_labels, waymo_label_files
from storage.keys import SceneKey
from storage.kinds import KINDS, Kind
from storage.progress import ProgressCallback
from storage.scenes.store import SceneReader
from storage.stores.arrays import create_target
from storage.stores.provenance import Provenance, package_versions
from storage.stores.versioned import Home, Materialized, materialize_arrays
from storage.taxonomy import OCC3D_FREE, OCC3D_UNKNOWN

KIND = Kind.OCCUPANCY_LABELS
_WAYMO_FORMATS = ("waymo_v1", "waymo_v2")


def ingest_occupancy_labels(
    home: Home, scene_key: SceneKey, *, on_progress: ProgressCallback | None = None
) -> Materialized:
    """Return the occupancy labels of a scene's current version, reading them if they are not stored.

    Args:
        home: Home of the scene and of the labels.
        scene_key: The scene.
        on_progress: Called with a stage, the fraction done and numbers worth showing.

    Raises:
        MissingTargetError: If the scene was never ingested.
        SourceDataError: If a file of labels is damaged or of another grid. Nothing is published.
    """
    with known_digests(home.root, KIND, str(scene_key)) as known:
        return _ingest(home, scene_key, known, on_progress or (lambda *_: None))


def _ingest(home: Home, scene_key: SceneKey, known: KnownDigests, on_progress: ProgressCallback) -> Materialized:
    version = home.require(Kind.SCENE, str(scene_key))
    scene = SceneReader(home.open_arrays(version), version)
    source = load_source(home, scene_key.dataset)
    reader = SourceFiles(source.root, source.link_roots, known)
    is_waymo = source.format in _WAYMO_FORMATS
    if is_waymo:
        found = waymo_label_files(source.root, reader.read, scene)
    else:
        tokens = _tokens(scene, source.format)
        files = [None if token is None else labels_file(scene_key.scene_name, token) for token in tokens]
        found = [file if file is not None and (source.root / file).is_file() else None for file in files]

    def parse(content: bytes, file: str, frame: int) -> Occ3dLabels:
        if not is_waymo:
            return parse_labels(content, file)
        to_global = np.asarray(scene.attributes["world_to_global"], np.float64)
        return parse_waymo_labels(content, file, to_global @ scene.ego_to_world(frame))

    provenance = Provenance(
        kind=KIND,
        partition=str(scene_key),
        inputs=(version.as_input,),
        code_digest=code_digest(__name__, kind=KIND),
        sources=reader.digests(file for file in found if file is not None),
        licence=source.licence,
        packages=package_versions("icechunk", "numpy", "zarr"),
    )

    def write(group: zarr.Group) -> dict[str, Any]:
        shape = (scene.num_frames, *map(int, KINDS[KIND].arrays["voxel_label"].axes[1:]))
        arrays = {name: create_target(group, KIND, name, shape) for name in KINDS[KIND].arrays}
        shares = []
        nothing = Occ3dLabels(
            semantics=np.full(shape[1:], OCC3D_UNKNOWN, np.uint8),
            mask_lidar=np.zeros(shape[1:], bool),
            mask_camera=np.zeros(shape[1:], bool),
        )
        for frame, file in enumerate(found):
            labels = nothing if file is None else parse(reader.read(file), file, frame)
            arrays["voxel_label"][frame] = labels.semantics
            arrays["is_visible"][frame] = labels.mask_camera
            arrays["is_scanned"][frame] = labels.mask_lidar
            if file is not None:
                shares.append((np.mean(labels.semantics != OCC3D_FREE), np.mean(labels.mask_camera)))
            on_progress("labels", (frame + 1) / len(found), {"frame": frame})
        group.attrs["layout"] = "occ3d-waymo" if is_waymo else "occ3d"
        occupied, visible = np.mean(shares, axis=0).tolist() if shares else (None, None)
        return {
            "frames": scene.num_frames,
            "labelled_frames": len(shares),
            "occupied_share": occupied,
            "visible_share": visible,
        }

    return materialize_arrays(home, provenance, write)


def _tokens(scene: SceneReader, layout: str) -> list[str | None]:
    """Return the name of each frame in the folder of labels; None for a frame that cannot have any."""
    tokens = scene.attributes.get("sample_tokens")
    if isinstance(tokens, list):
        return [None if token is None else str(token) for token in tokens]
    if layout == "manifest":
        return [f"{index:06d}" for index in range(scene.num_frames)]
    return [None] * scene.num_frames
