"""Fits of all methods but the field's own: run by nerfstudio's interpreter, with a home as argument.

Prints one JSON object as the last line: what ``test_nerfstudio_plugins`` asserts on.
"""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import torch
from nerfstudio.data.datasets.depth_dataset import DepthDataset

from storage.errors import EnvironmentMissingError
from storage.stores.versioned import Home
from teachers.nerf import fit as fit_module
from teachers.nerf import methods as methods_module
from teachers.nerf import teacher as teacher_module
from teachers.nerf.config import (
    FieldConfig,
    NerfConfig,
    ProposalConfig,
    SamplingConfig,
    TeacherDepthConfig,
    VirtualViewsConfig,
)
from teachers.nerf.dataparser import SceneDataParserConfig
from teachers.nerf.fit import fit_scene
from teachers.nerf.render import render_teacher_depth, render_virtual_views
from teachers.nerf.splats import cube_lookup, cube_rotations
from teachers.nerf.teacher import NerfTeacher

SCENE_KEY = "test.wall"
TINY = NerfConfig(
    image_height=18,
    image_width=32,
    num_steps=150,
    pixel_rays=192,
    lidar_pixel_rays=64,
    lidar_rays=64,
    num_gaussians=1500,
    field=FieldConfig(num_levels=3, log2_table_size=12, finest_cell_m=0.5),
    sampling=SamplingConfig(proposals=(ProposalConfig(num_samples=12),), num_field_samples=8, far_m=150.0),
)


def fit(home: Home, method: str) -> dict[str, object]:
    """Fit with a method, render, and load the field again."""
    made = fit_scene(home, SCENE_KEY, dataclasses.replace(TINY, method=method))
    depth = render_teacher_depth(home, SCENE_KEY, TeacherDepthConfig(height=9, width=16))
    views = render_virtual_views(home, SCENE_KEY, VirtualViewsConfig(height=9, width=16))
    teacher = NerfTeacher.load(home, SCENE_KEY, TINY.execution, made.version.digest)
    return {
        "digest": made.version.digest,
        "model": type(teacher.model).__name__,
        "files": sorted(p.name for p in home.open_files(made.version).iterdir()),
        "psnr": made.metrics["psnr"],
        "checks": sorted(made.metrics["quality"]["checks"]),
        "beam_abs_rel": made.metrics["lidar_beam_abs_rel"],
        "beam_coverage": made.metrics["lidar_beam_coverage"],
        "depth_digest": depth.version.digest,
        "view_digest": views.version.digest,
    }


def rasterize_densely(
    *, means, quats, scales, opacities, colors, viewmats, Ks, width, height, near_plane, far_plane, render_mode
):
    """Do what gsplat does, on a CPU: isotropic, all Gaussians at all pixels, nearest first; same call, same result."""
    assert render_mode == "RGB+ED"
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([u, v], dim=-1).reshape(-1, 1, 2)
    images, alphas = [], []
    for view, intrinsics in zip(viewmats, Ks, strict=True):
        in_camera = means @ view[:3, :3].T + view[:3, 3]
        shown = ((in_camera[:, 2] > near_plane) & (in_camera[:, 2] < far_plane)).nonzero()[:, 0]
        shown = shown[in_camera[shown, 2].argsort()]
        x, y, z = in_camera[shown].unbind(-1)
        centres = torch.stack([x / z, y / z], dim=-1) * intrinsics[0, 0] + intrinsics[:2, 2]
        spread = scales[shown].mean(dim=-1) * intrinsics[0, 0] / z
        distance = (pixels - centres).square().sum(dim=-1) / (spread.square() + 0.3)
        alpha = (opacities[shown] * torch.exp(-0.5 * distance)).clamp_max(0.99)
        weights = alpha * torch.cumprod(torch.nn.functional.pad(1.0 - alpha[:, :-1], (1, 0), value=1.0), dim=1)
        opacity = weights.sum(dim=1, keepdim=True)
        depth = weights @ z[:, None] / opacity.clamp_min(1e-6)
        images.append(torch.cat([weights @ colors[shown], depth], dim=-1).reshape(height, width, 4))
        alphas.append(opacity.reshape(height, width, 1))
    return torch.stack(images), torch.stack(alphas), {}


def fit_splats(home: Home) -> dict[str, object]:
    """Fit Gaussians, with what the machine lacks put in its place."""
    required, config = fit_module.require_method, methods_module.SplatTeacherConfig
    fit_module.require_method = teacher_module.require_method = lambda _nerf, _device: None
    methods_module.SplatTeacherConfig = lambda: config(rasterize=rasterize_densely)
    try:
        return fit(home, "gsplat")
    finally:
        fit_module.require_method = teacher_module.require_method = required
        methods_module.SplatTeacherConfig = config


def check_cube() -> dict[str, float]:
    """Largest errors of looking directions up on a cube: put together again, and how far from a face they fall."""
    directions = torch.nn.functional.normalize(torch.randn(500, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    face, on_face, z = cube_lookup(directions)
    in_camera = torch.cat([on_face, torch.ones(500, 1)], dim=-1) * z[:, None]
    again = torch.einsum("rji,rj->ri", cube_rotations()[face], in_camera)
    turned = torch.linalg.det(cube_rotations())
    return {
        "direction": float((again - directions).abs().max()),
        "outside": float((on_face.abs() - 1.0).clamp_min(0.0).max()),
        "nearest_axis": float(z.min()),
        "handedness": float((turned - 1.0).abs().max()),
    }


def check_dataparser(home: Home) -> dict[str, float]:
    """Largest errors of what the dataparser gives out, taken back to metres by its own transform and scale."""
    parser = SceneDataParserConfig(home=home.root, scene_key=SCENE_KEY).setup()
    outputs, scene = parser.get_dataparser_outputs("test"), parser.scene
    frames = parser.frames["test"]
    poses = outputs.transform_poses_to_original_space(outputs.cameras.camera_to_worlds, "opencv").numpy()
    wanted = np.stack([scene.camera_to_world(f, c)[:3] for f in frames for c in range(scene.num_cameras)])
    depth = DepthDataset(outputs)[1]["depth_image"][..., 0].numpy() / outputs.dataparser_scale
    same = [
        path.read_bytes() == scene.image_bytes(f, c)
        for path, (f, c) in zip(
            outputs.image_filenames, [(f, c) for f in frames for c in range(scene.num_cameras)], strict=True
        )
    ]
    return {
        "pose_m": float(np.abs(poses - wanted).max()),
        "wall_m": float(np.median(depth[14:22, 28:36][depth[14:22, 28:36] > 0])),
        "returns": int((depth > 0).sum()),
        "images_differ": same.count(False),
        "last_time": float(outputs.cameras.times.max()),
    }


def refusal(home: Home, method: str) -> str:
    """Return how a method is refused on this machine, or nothing."""
    try:
        fit_scene(home, SCENE_KEY, dataclasses.replace(TINY, method=method))
    except EnvironmentMissingError as error:
        return str(error)
    return ""


def main() -> None:
    home = Home(Path(sys.argv[1]))
    results = {
        "fits": {method: fit(home, method) for method in ("nerfacto", "depth-nerfacto")},
        "refused": refusal(home, "gsplat"),
        "splats": fit_splats(home),
        "cube": check_cube(),
        "dataparser": check_dataparser(home),
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
