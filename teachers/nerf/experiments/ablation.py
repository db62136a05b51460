"""Ablation of the scene teacher: every part of the method, or every weight of its losses, on one scene.

``python -m teachers.nerf.experiments.ablation HOME SCENE`` runs in nerfstudio's environment, on a home where the scene
was ingested (``distillnerf demo`` does it for procedural ones). It fits every variant, with every seed, and prints a
table and writes it as JSON: colour and depth on frames held out. Fits that exist are reused, so it can be stopped.

On a procedural scene it also judges by exact motion: colour inside the pixels that show something that moves, over the
frames that the field was fitted to and over held-out ones apart, and the end-point error of the flow. Exact motion is
read by the judge alone. No variant but those with ``boxes`` sees more than images, poses and LiDAR.

``--like FIELD.JSON`` takes images, steps, rays and sizes from a field, such as the one that preset ``tiny``
fitted, in place of small ones that suit a procedural scene.
"""

import argparse
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from storage.freed_memory import reuse_freed_memory
from storage.kinds import Kind
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home
from teachers.nerf.checkpoint import load_description
from teachers.nerf.config import ErrorSamplingConfig, FieldConfig, NerfConfig, ProposalConfig, SamplingConfig
from teachers.nerf.dynamic import DynamicBranch
from teachers.nerf.experiments.exact_motion import ExactMotion, ExactMotions
from teachers.nerf.scene_rays import SceneBounds, SceneRays, split_frames

if TYPE_CHECKING:
    from teachers.nerf.teacher import NerfTeacher

logger = logging.getLogger("teachers.nerf.experiments.ablation")

Figures = Mapping[str, float]


def parts(base: NerfConfig) -> dict[str, NerfConfig]:
    """Return variants by name; each is the one that its name continues, plus one part."""

    def with_field(**changes: object) -> NerfConfig:
        return replace(base, field=replace(base.field, **changes))

    dynamic = with_field(dynamic=True)
    boxes = replace(dynamic, moving_source="boxes")
    flow = replace(with_field(dynamic=True, flow=True), moving_source="boxes")
    shadow = replace(flow, field=replace(flow.field, shadow=True))
    proposals = (ProposalConfig(num_samples=32, finest_cell_m=1.5), ProposalConfig(num_samples=24))
    return {
        "static": base,
        "dynamic": replace(dynamic, moving_source="none"),
        "dynamic, lidar": dynamic,
        "dynamic, boxes": boxes,
        "dynamic, boxes, no clearance": replace(boxes, losses=replace(boxes.losses, static_clearance=0.0)),
        "dynamic, lidar, flow": with_field(dynamic=True, flow=True),
        "dynamic, boxes, flow": flow,
        "dynamic, boxes, flow, shadow": shadow,
        "static, one corner": with_field(grid_gradient="stochastic"),
        "static, short memory": replace(base, betas=(0.5, 0.9)),
        "static, code per camera": with_field(appearance="camera"),
        "static, 16 samples": replace(base, sampling=replace(base.sampling, num_field_samples=16)),
        "static, two proposals": replace(base, sampling=replace(base.sampling, proposals=proposals)),
        "static, error-driven": replace(base, error_sampling=ErrorSamplingConfig(share=0.25)),
        "static, per sample": with_field(shading="per_sample"),
    }


def weights(base: NerfConfig) -> dict[str, NerfConfig]:
    """Return variants with other weights of depth, line of sight, sky and sharpness; the last are EmerNeRF's."""

    def with_losses(**changes: object) -> NerfConfig:
        return replace(base, losses=replace(base.losses, **changes))

    losses = base.losses
    normal: dict[str, object] = {
        "line_of_sight_form": "normal",
        "line_of_sight": 0.1,
        "line_of_sight_margin_m": (6.0, 2.5),
    }
    return {
        "as it is": base,
        "depth x 0.2": with_losses(depth=0.2 * losses.depth),
        "depth x 5": with_losses(depth=5.0 * losses.depth),
        "depth squared": with_losses(depth_form="squared", depth=1.0),
        "line of sight x 0.2": with_losses(line_of_sight=0.2 * losses.line_of_sight),
        "line of sight x 5": with_losses(line_of_sight=5.0 * losses.line_of_sight),
        "line of sight to 0.2 m": with_losses(line_of_sight_margin_m=(losses.line_of_sight_margin_m[0], 0.2)),
        "line of sight normal": with_losses(**normal),
        "sky x 0.01": with_losses(sky=0.01 * losses.sky),
        "sky x 0.1": with_losses(sky=0.1 * losses.sky),
        "distortion x 0.2": with_losses(distortion=0.2 * losses.distortion),
        "distortion x 5": with_losses(distortion=5.0 * losses.distortion),
        "opacity entropy 0": with_losses(opacity_entropy=0.0),
        "EmerNeRF's": with_losses(
            depth_form="squared", depth=1.0, sky=0.001, distortion=0.0, opacity_entropy=0.0, **normal
        ),
    }


VARIANTS: Mapping[str, Callable[[NerfConfig], dict[str, NerfConfig]]] = {"parts": parts, "weights": weights}


def judge(home: Home, scene_key: str, config: NerfConfig) -> dict[str, float]:
    """Fit one variant, and return its figures; those of exact motion of a procedural scene alone.

    ``moving_psnr_*`` pools the squared error of all pixels that show something that moves. ``flow_error_m`` is the mean
    end-point error from one image of a camera to its next, ``still_error_m`` that of a flow of zero.

    Raises:
        MissingTargetError: If the scene or the sky mask that is asked for does not exist.
    """
    # nerfstudio can be imported once main has declared what its torchvision lacks.
    from teachers.nerf.fit import fit_scene
    from teachers.nerf.teacher import NerfTeacher

    fitted = fit_scene(home, scene_key, config)
    figures = {
        name: float(fitted.metrics[name])
        for name in ("psnr", "static_psnr", "train_psnr", "lidar_abs_rel", "static_lidar_abs_rel", "sky_opacity")
        if name in fitted.metrics
    }
    scene = SceneReader.open(home, scene_key)
    if home.latest(Kind.SCENE_TRUTH, scene_key) is None:
        return figures
    teacher = NerfTeacher.load(home, scene_key, config.execution, fitted.version.digest)
    return figures | _motion_figures(teacher, scene, ExactMotions(home, scene, scene_key, config.image_size), config)


def _motion_figures(
    teacher: "NerfTeacher", scene: SceneReader, motions: ExactMotions, config: NerfConfig
) -> dict[str, float]:
    split = split_frames(scene.num_frames, holdout_every=config.holdout_every)
    figures: dict[str, float] = {}
    flow_errors: list[np.ndarray] = []
    still_errors: list[np.ndarray] = []
    for name, frames in (("fitted", split.train), ("held_out", split.held_out)):
        rays = SceneRays(scene, frames, teacher.bounds, image_size=config.image_size)
        squared: list[torch.Tensor] = []
        for image in range(len(rays.pixels)):
            frame = int(rays.image_frame[image])
            motion = motions.of(frame, int(rays.image_camera[image]))
            pixel = torch.from_numpy(np.flatnonzero(motion.moves))
            if len(pixel) == 0:
                continue
            batch = rays.pixel_rays(torch.full_like(pixel, image), pixel)
            squared.append((teacher.render(batch).rgb - batch.rgb).square().mean(dim=-1))
            still_errors.append(np.linalg.norm(motion.velocity, axis=-1) * motion.seconds)
            if teacher.model.field.dynamic is not None and config.field.flow:
                flow_errors.append(_end_point_errors(teacher.model.field.dynamic, teacher.bounds, frame, motion))
        error = torch.cat(squared) if squared else torch.zeros(0)
        figures[f"moving_psnr_{name}"] = -10.0 * math.log10(float(error.mean())) if len(error) else math.nan
        figures[f"moving_pixels_{name}"] = float(len(error))
    figures["flow_error_m"] = float(np.concatenate(flow_errors).mean()) if flow_errors else math.nan
    figures["still_error_m"] = float(np.concatenate(still_errors).mean()) if still_errors else math.nan
    return figures


@torch.no_grad()
def _end_point_errors(branch: DynamicBranch, bounds: SceneBounds, frame: int, motion: ExactMotion) -> np.ndarray:
    """Return how far the flow of exact surface points misses their next place, metres."""
    assert branch.flow is not None
    device = branch.half_extent.device
    positions = torch.tensor(bounds.to_scene_units(motion.points), dtype=torch.float32, device=device)
    instants = torch.full((len(positions),), float(frame), device=device)
    velocity = branch.flow(branch.unit_cube(positions), instants).forward.cpu().numpy()
    return np.linalg.norm(velocity - motion.velocity, axis=-1) * motion.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldAblation:
    """What is run.

    Attributes:
        home: Root of the home.
        scene_key: A scene that was ingested there.
        of: What the variants differ in.
        names: Variants to run; all if empty.
        seeds: Seeds to run each with.
        like: Description of a field, ``field.json``, whose configuration the variants start from; None for a small one.
        num_steps: Steps of each fit of the small one.
        image_size: Height and width of its images.
        sampling: Where its rays are sampled.
    """

    home: Path
    scene_key: str
    of: Literal["parts", "weights"] = "parts"
    names: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    like: Path | None = None
    num_steps: int = 300
    image_size: tuple[int, int] = (56, 100)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def base(self, home: Home) -> NerfConfig:
        """Return the configuration that variants start from; frames held out are never fitted."""
        if self.like is not None:
            return replace(load_description(self.like).config, fit_all_frames=False)
        return NerfConfig(
            image_height=self.image_size[0],
            image_width=self.image_size[1],
            num_steps=self.num_steps,
            pixel_rays=2048,
            lidar_pixel_rays=512,
            lidar_rays=512,
            use_sky_mask=home.latest(Kind.SKY_MASK, self.scene_key) is not None,
            field=FieldConfig(log2_table_size=16, finest_cell_m=0.2),
            sampling=self.sampling,
        )

    def run(self) -> dict[str, list[dict[str, float]]]:
        """Fit and judge everything; return the figures of every seed, by variant.

        Raises:
            ValueError: If a variant is unknown.
        """
        home = Home(self.home)
        known = VARIANTS[self.of](self.base(home))
        if unknown := sorted(set(self.names) - set(known)):
            raise ValueError(f"variant {unknown[0]!r}, want some of {', '.join(map(repr, known))}")
        found: dict[str, list[dict[str, float]]] = {}
        for name in self.names or tuple(known):
            for seed in self.seeds:
                figures = judge(home, self.scene_key, replace(known[name], seed=seed))
                found.setdefault(name, []).append(figures)
                logger.info("%s, seed %d: %s", name, seed, json.dumps({k: round(v, 3) for k, v in figures.items()}))
        return found


_COLUMNS = {
    "moving_psnr_fitted": "moving, fitted, dB",
    "moving_psnr_held_out": "moving, held out, dB",
    "psnr": "held out, dB",
    "static_psnr": "standing, held out, dB",
    "lidar_abs_rel": "LiDAR AbsRel",
    "static_lidar_abs_rel": "standing, AbsRel",
    "sky_opacity": "opacity of the sky",
    "flow_error_m": "flow error, m",
}


def table(found: Mapping[str, Sequence[Figures]]) -> str:
    """Return the means over seeds as a Markdown table, of the figures that there are."""
    columns = {
        name: title for name, title in _COLUMNS.items() if any(name in run for runs in found.values() for run in runs)
    }
    lines = ["| variant | " + " | ".join(columns.values()) + " |", "|---|" + "---|" * len(columns)]
    for name, runs in found.items():
        cells = [f"{mean(run.get(column, math.nan) for run in runs):.4g}" for column in columns]
        lines.append(f"| {name} | " + " | ".join("" if cell == "nan" else cell for cell in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, run, and leave table and JSON."""
    from teachers.nerf.torchvision_shim import declare_missing_operators

    declare_missing_operators()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("scene", help="key of an ingested scene")
    parser.add_argument("--of", choices=sorted(VARIANTS), default="parts", help="what the variants differ in")
    parser.add_argument("--like", type=Path, default=None, help="field.json of a field: its configuration is the base")
    parser.add_argument("--variants", nargs="*", default=[], help="names of variants; all by default")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=300, help="of each fit; --like has its own")
    parser.add_argument(
        "--output", type=Path, default=None, help="JSON file; HOME/nerf-parts.json or nerf-weights.json by default"
    )
    given = parser.parse_args()
    reuse_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run = FieldAblation(
        home=given.home,
        scene_key=given.scene,
        of=given.of,
        like=given.like,
        names=tuple(given.variants),
        seeds=tuple(given.seeds),
        num_steps=given.steps,
    )
    found = run.run()
    output = given.output or given.home / f"nerf-{given.of}.json"
    record = {"scene": given.scene, "steps": given.steps, "seeds": given.seeds, "figures": found}
    output.write_text(json.dumps(record, indent=2) + "\n")
    logger.info("%s\n%s", output, table(found))


if __name__ == "__main__":
    main()
