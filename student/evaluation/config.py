"""What an evaluation measures and how a student labels: configurations that need no torch."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from student.inference.prompts import DEFAULT_TEMPLATE


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """What an evaluation measures, and on how much.

    Attributes:
        max_frames_per_scene: Held-out frames scored per scene, evenly spaced, beside the one that the
            paper's protocol scores.
        num_training_frames: Training frames per scene from which baselines, the occupancy threshold, its
            calibration and the softmax temperature are taken.
        calibration: Family of the map from raw to calibrated occupancy.
        voxel_samples_per_axis: Density is read on a lattice of this many points per voxel and axis.
        max_voxels_per_frame: Voxels of a frame kept for threshold and calibration.
        max_pixels_per_frame: Pixels of a frame kept for text queries.
        lateral_shift_m: How far cameras are moved for views the car never had, metres.
        max_lateral_frames: Held-out frames per scene rendered at moved poses against the true world; it
            is the dearest part. 0 for none.
        prompt_template: Sentence with one ``{}`` for a class's word.
        text_encoder: Folder or hub id of the CLIP checkpoint where it moved since the features were
            made; empty for where it was.
        query: Text whose heat map the pictures show.
        panel_frames: Held-out frames per scene of which pictures are kept.
        panel_cameras: Cameras per such frame.
        panel_width: Width of each picture, pixels.
        seed: Seed of every random choice.
        device: Where the student runs; no part of the digest.
        checkpoint_digest: Exact checkpoint, or empty for the variant's current one.
    """

    max_frames_per_scene: int = 1000
    num_training_frames: int = 4
    calibration: Literal["temperature", "isotonic"] = "isotonic"
    voxel_samples_per_axis: int = 2
    max_voxels_per_frame: int = 50_000
    max_pixels_per_frame: int = 20_000
    lateral_shift_m: float = 1.0
    max_lateral_frames: int = 2
    prompt_template: str = DEFAULT_TEMPLATE
    text_encoder: str = ""
    query: str = "car"
    panel_frames: int = 2
    panel_cameras: int = 3
    panel_width: int = 320
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_digest: str = ""

    def __post_init__(self) -> None:
        """Reject counts without meaning."""
        for name in ("max_frames_per_scene", "voxel_samples_per_axis", "panel_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("num_training_frames", "max_lateral_frames", "panel_frames", "panel_cameras", "lateral_shift_m"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.max_voxels_per_frame < 100 or self.max_pixels_per_frame < 100:
            raise ValueError("max_voxels_per_frame and max_pixels_per_frame must be at least 100")
        if self.prompt_template.count("{}") != 1:
            raise ValueError(f"prompt_template needs exactly one '{{}}', got {self.prompt_template!r}")

    def determining(self) -> "EvaluationConfig":
        """Return the part that determines the figures; which weights were used is recorded by their digests."""
        return replace(self, device="auto", checkpoint_digest="", text_encoder="")

    @property
    def lateral_shifts(self) -> tuple[Float[np.ndarray, "4 4"], ...]:
        """Left, right and up, as ``virtual_to_camera``."""
        shifts = []
        for direction in ((-1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0)):
            shift = np.eye(4)
            shift[:3, 3] = np.array(direction) * self.lateral_shift_m
            shifts.append(shift)
        return tuple(shifts)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeakLabelConfig:
    """How a student labels a scene.

    Attributes:
        prompt_template: Sentence with one ``{}`` for a class's word.
        text_encoder: Folder or hub id of the CLIP checkpoint where it moved since the features were
            made; empty for where it was.
        default_threshold: Raw probability from which a voxel is called occupied where no evaluation of
            the checkpoint chose one; the labels then say that they are uncalibrated.
        voxel_samples_per_axis: Density is read on a lattice of this many points per voxel and axis.
        pixel_labels: Also label every rendered pixel.
        device: Where the student runs; no part of the digest.
        checkpoint_digest: Exact checkpoint, or empty for the variant's current one.
    """

    prompt_template: str = DEFAULT_TEMPLATE
    text_encoder: str = ""
    default_threshold: float = 0.5
    voxel_samples_per_axis: int = 2
    pixel_labels: bool = True
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_digest: str = ""

    def __post_init__(self) -> None:
        """Reject what would label nothing or everything."""
        if not 0 < self.default_threshold < 1:
            raise ValueError(f"default_threshold must lie in (0, 1), got {self.default_threshold}")
        if self.voxel_samples_per_axis < 1:
            raise ValueError(f"voxel_samples_per_axis must be at least 1, got {self.voxel_samples_per_axis}")
        if self.prompt_template.count("{}") != 1:
            raise ValueError(f"prompt_template needs exactly one '{{}}', got {self.prompt_template!r}")

    def determining(self) -> "WeakLabelConfig":
        """Return the part that determines the labels; which weights were used is recorded by their digests."""
        return replace(self, device="auto", checkpoint_digest="", text_encoder="")
