"""Ablation of the scene teacher: each part of the method is judged against exact motion on a procedural scene.

``python -m teachers.nerf.experiments.ablation HOME SCENE`` runs in nerfstudio's environment, on a home where a
procedural scene was ingested (``distillnerf demo`` does it). It fits every variant, with every seed, and prints a table
and writes it as JSON: colour inside the pixels that show something that moves, over the frames that the field was
fitted to and over held-out ones apart; end-point error of the flow; depth against held-out LiDAR. Fits that exist are
reused.

Exact motion is read by the judge alone. No variant but those with ``boxes`` sees more than images, poses and LiDAR.
"""

import argparse
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean

import numpy as np
import torch

from storage.freed_memory import reuse_freed_memory
from storage.kinds import Kind
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home
from teachers.nerf.config import ErrorSamplingConfig, FieldConfig, NerfConfig, ProposalConfig, SamplingConfig
from teachers.nerf.dynamic import DynamicBranch
from teachers.nerf.experiments.exact_motion import ExactMotion, ExactMotions
from teachers.nerf.scene_rays import SceneBounds, SceneRays, split_frames

logger = logging.getLogger("teachers.nerf.experiments.ablation")

Figures = Mapping[str, float]


def variants(base: NerfConfig) -> dict[str, NerfConfig]:
    """Return the variants, by name; each is the one that its name continues, plus one part."""

    def with_field(**changes: object) -> NerfConfig:
        return replace(base, field=replace(base.field, **changes))

    dynamic = with_field(dynamic=True)
    flow = replace(with_field(dynamic=True, flow=True), moving_source="boxes")
    shadow = replace(flow, field=replace(flow.field, shadow=True))
    proposals = (ProposalConfig(num_samples=32, finest_cell_m=1.5), ProposalConfig(num_samples=24))
    return {
        "static": base,
        "dynamic": replace(dynamic, moving_source="none"),
        "dynamic, lidar": dynamic,
        "dynamic, boxes": replace(dynamic, moving_source="boxes"),
        "dynamic, lidar, flow": with_field(dynamic=True, flow=True),
        "dynamic, boxes, flow": flow,
        "dynamic, boxes, flow, shadow": shadow,
        "static, appearance of images": with_field(appearance="image"),
        "static, two proposals": replace(base, sampling=replace(base.sampling, proposals=proposals)),
        "static, error-driven": replace(base, error_sampling=ErrorSamplingConfig(share=0.25)),
        "static, per sample": with_field(shading="per_sample"),
    }


def judge(home: Home, scene_key: str, config: NerfConfig) -> dict[str, float]:
    """Fit one variant of a procedural scene, and return its figures.

    ``moving_psnr_*`` pools the squared error of all pixels that show something that moves. ``flow_error_m`` is the mean
    end-point error from one image of a camera to its next, ``still_error_m`` that of a flow of zero.

    Raises:
        MissingTargetError: If the scene, its truth or the sky mask that is asked for does not exist.
    """
    # nerfstudio can be imported once main has declared what its torchvision lacks.
    from teachers.nerf.fit import fit_scene
    from teachers.nerf.teacher import NerfTeacher

    fitted = fit_scene(home, scene_key, config)
    teacher = NerfTeacher.load(home, scene_key, config.execution, fitted.version.digest)
    scene = SceneReader.open(home, scene_key)
    motions = ExactMotions(home, scene, scene_key, config.image_size)
    split = split_frames(scene.num_frames, holdout_every=config.holdout_every)
    figures = {
        name: float(fitted.metrics[name]) for name in ("psnr", "static_psnr", "lidar_abs_rel", "static_lidar_abs_rel")
    }
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
        scene_key: A procedural scene that was ingested there.
        names: Variants to run; all if empty.
        seeds: Seeds to run each with.
        num_steps: Steps of each fit.
        image_size: Height and width of images.
        sampling: Where rays are sampled.
    """

    home: Path
    scene_key: str
    names: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    num_steps: int = 300
    image_size: tuple[int, int] = (56, 100)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def run(self) -> dict[str, list[dict[str, float]]]:
        """Fit and judge everything; return the figures of every seed, by variant.

        Raises:
            ValueError: If a variant is unknown.
        """
        home = Home(self.home)
        base = NerfConfig(
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
        known = variants(base)
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
    "static_psnr": "standing, held out, dB",
    "lidar_abs_rel": "LiDAR AbsRel",
    "flow_error_m": "flow error, m",
}


def table(found: Mapping[str, Sequence[Figures]]) -> str:
    """Return the means over seeds as a Markdown table."""
    lines = ["| variant | " + " | ".join(_COLUMNS.values()) + " |", "|---|" + "---|" * len(_COLUMNS)]
    for name, runs in found.items():
        cells = [f"{mean(run[column] for run in runs):.3g}" for column in _COLUMNS]
        lines.append(f"| {name} | " + " | ".join("" if cell == "nan" else cell for cell in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, run, and leave table and JSON."""
    from teachers.nerf.torchvision_shim import declare_missing_operators

    declare_missing_operators()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("scene", help="key of an ingested procedural scene")
    parser.add_argument("--variants", nargs="*", default=[], help="names of variants; all by default")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--output", type=Path, default=None, help="JSON file; HOME/nerf-ablation.json by default")
    given = parser.parse_args()
    reuse_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run = FieldAblation(
        home=given.home,
        scene_key=given.scene,
        names=tuple(given.variants),
        seeds=tuple(given.seeds),
        num_steps=given.steps,
    )
    found = run.run()
    output = given.output or given.home / "nerf-ablation.json"
    record = {"scene": given.scene, "steps": given.steps, "seeds": given.seeds, "figures": found}
    output.write_text(json.dumps(record, indent=2) + "\n")
    logger.info("%s\n%s", output, table(found))


if __name__ == "__main__":
    main()
