"""What pose refinement gains: a scene whose cameras were disturbed, fitted as it is, disturbed, and refined.

``python -m teachers.nerf.experiments.refine_poses HOME SCENE`` runs in nerfstudio's environment, on a home where the
scene was ingested and has its sky mask. Every camera's mounting is moved by 0.1 m and turned by 0.5 degrees, in random
directions, and the result is published as a scene of its own in HOME. The table has PSNR and LiDAR AbsRel of held-out
frames, which the field never saw, and the error of mountings before and after, against those of the recording.
"""

import argparse
import dataclasses
import json
import logging
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import zarr
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from storage.digests import config_digest
from storage.freed_memory import reuse_freed_memory
from storage.geometry.transforms import invert_se3
from storage.kinds import Kind
from storage.scenes.store import SceneReader
from storage.stores.provenance import Provenance
from storage.stores.versioned import Home, materialize_arrays
from teachers.nerf.config import NerfConfig, RefinementConfig
from teachers.quality import at_least, gate

logger = logging.getLogger("teachers.nerf.experiments.refine_poses")


def disturb(
    camera_to_ego: Float[np.ndarray, "cameras 4 4"], *, rotation_deg: float, translation_m: float, seed: int
) -> Float[np.ndarray, "cameras 4 4"]:
    """Return mountings turned and moved by so much, each about and along a random direction of its own."""
    random = np.random.default_rng(seed)
    axes, ways = random.normal(size=(2, len(camera_to_ego), 3))
    disturbance = np.tile(np.eye(4), (len(camera_to_ego), 1, 1))
    turns = np.radians(rotation_deg) * axes / np.linalg.norm(axes, axis=1, keepdims=True)
    disturbance[:, :3, :3] = Rotation.from_rotvec(turns).as_matrix()
    disturbance[:, :3, 3] = translation_m * ways / np.linalg.norm(ways, axis=1, keepdims=True)
    return camera_to_ego @ disturbance


def mounting_errors(found: SceneReader, true: SceneReader) -> dict[str, float]:
    """Return by how much cameras stand and look elsewhere than in another scene: means over cameras, first frame."""
    moved, turned = [], []
    for camera in range(true.num_cameras):
        error = invert_se3(true.camera_to_world(0, camera)) @ found.camera_to_world(0, camera)
        moved.append(float(np.linalg.norm(error[:3, 3])))
        turned.append(float(np.degrees(np.linalg.norm(Rotation.from_matrix(error[:3, :3]).as_rotvec()))))
    return {"position_error_m": mean(moved), "rotation_error_deg": mean(turned)}


def publish_disturbed(home: Home, scene_key: str, *, rotation_deg: float, translation_m: float, seed: int) -> str:
    """Publish a scene with other mountings, and the same sky mask; return its key."""
    key = f"{scene_key}-disturbed-{seed}"
    for kind in (Kind.SCENE, Kind.SKY_MASK):
        version = home.require(kind, scene_key)
        source = home.open_arrays(version)
        settings = {"rotation_deg": rotation_deg, "translation_m": translation_m, "seed": seed}

        def write(group: zarr.Group, source: zarr.Group = source, kind: Kind = kind) -> dict[str, Any]:
            group.attrs.update(source.attrs.asdict())
            for name, array in source.members(max_depth=None):
                if not isinstance(array, zarr.Array):
                    continue
                values = np.asarray(array[...])
                if kind is Kind.SCENE and name == "camera_to_ego":
                    values = disturb(values, rotation_deg=rotation_deg, translation_m=translation_m, seed=seed)
                copied = group.create_array(name, data=values, chunks=array.chunks)
                copied.attrs.update(array.attrs.asdict())
            return {"quality": gate({"copied": at_least(1, 1)})}

        original = home.provenance(version)
        made = Provenance(
            kind=kind,
            partition=key,
            inputs=(version.as_input,),
            config_digest=config_digest(_Disturbance(**settings)),
            seed=seed,
            licence=original.licence,
        )
        materialize_arrays(home, made, write)
    return key


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Disturbance:
    rotation_deg: float
    translation_m: float
    seed: int


def compare(
    home: Home, scene_key: str, base: NerfConfig, *, rotation_deg: float, translation_m: float, seed: int
) -> Any:  # noqa: ANN401
    """Return the figures of the three fits, by name."""
    from teachers.nerf.fit import fit_scene
    from teachers.nerf.teacher import NerfTeacher

    disturbed = publish_disturbed(home, scene_key, rotation_deg=rotation_deg, translation_m=translation_m, seed=seed)
    refined = dataclasses.replace(base, refinement=RefinementConfig(poses=True))
    true = SceneReader.open(home, scene_key)
    figures: dict[str, Any] = {}
    for name, key, config in (
        ("disturbed", disturbed, base),
        ("disturbed, refined", disturbed, refined),
        ("as recorded", scene_key, base),
        ("as recorded, refined", scene_key, refined),
    ):
        made = fit_scene(home, key, config)
        teacher = NerfTeacher.load(home, key, config.execution, made.version.digest)
        of = made.metrics
        figures[name] = {
            "static_psnr": of["static_psnr"],
            "lidar_beam_abs_rel": of["lidar_beam_abs_rel"],
            **mounting_errors(teacher.as_fitted(SceneReader.open(home, key)), true),
        }
        logger.info("%s: %s", name, figures[name])
    return figures


def main() -> None:
    """Run the comparison and print it as JSON."""
    from teachers.nerf.torchvision_shim import declare_missing_operators

    declare_missing_operators()
    parser = argparse.ArgumentParser(prog="teachers.nerf.experiments.refine_poses", description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("scene")
    parser.add_argument("--num-steps", type=int, default=NerfConfig().num_steps)
    parser.add_argument("--pixel-rays", type=int, default=NerfConfig().pixel_rays)
    parser.add_argument("--rotation-deg", type=float, default=0.5)
    parser.add_argument("--translation-m", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    figures = compare(
        Home(parsed.home),
        parsed.scene,
        NerfConfig(num_steps=parsed.num_steps, pixel_rays=parsed.pixel_rays),
        rotation_deg=parsed.rotation_deg,
        translation_m=parsed.translation_m,
        seed=parsed.seed,
    )
    print(json.dumps(figures, indent=2))  # noqa: T201 - the result of the command


if __name__ == "__main__":
    reuse_freed_memory()
    main()
