"""Configurations of evaluations and of weak labels, which need no torch."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from student.inference.prompts import DEFAULT_TEMPLATE


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """Configuration of an evaluation.

    Attributes:
        protocol: ``full`` scores all held-out frames. ``paper`` scores one frame per scene, against images that were
            resized as published, and keeps the figures that the paper defines.
        max_frames_per_scene: Held-out frames scored per scene, evenly spaced, in addition to the one that the paper's
            protocol scores.
        num_training_frames: Training frames per scene that give baselines, occupancy threshold, calibration and softmax
            temperature.
        calibration: Family of the map from raw to calibrated occupancy.
        voxel_samples_per_axis: Points per voxel and axis of the lattice on which density is read.
        max_voxels_per_frame: Voxels of a frame kept for threshold and calibration.
        max_pixels_per_frame: Pixels of a frame kept for text queries.
        lateral_shift_m: Distance by which cameras are moved for views that the car never had, metres.
        max_lateral_frames: Held-out frames per scene that are scored at moved poses against the true world; 0 for none.
            They take the most time of all.
        prompt_template: Sentence with one ``{}`` for a class's word.
        text_encoder: Folder or hub id of the CLIP checkpoint; empty for the one recorded with the features.
        query: Text of the heat maps in the pictures.
        classes: Own classes that are asked for in addition, a YAML file or the name of a shipped list; empty for none.
            The content counts for the digest, and not its place.
        panel_frames: Held-out frames per scene with pictures.
        panel_cameras: Cameras with pictures per such frame.
        panel_width: Width of each picture, pixels.
        lpips_weights: Safetensors file with the weights of LPIPS; empty for the declared substitute, which needs none.
        seed: Seed of every random choice.
        device: Device of the student; no part of the digest.
        checkpoint_digest: Digest of the checkpoint; empty for the variant's current one.
    """

    protocol: Literal["full", "paper"] = "full"
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
    classes: str = ""
    panel_frames: int = 2
    panel_cameras: int = 3
    panel_width: int = 320
    lpips_weights: str = ""
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_digest: str = ""

    def __post_init__(self) -> None:
        """Reject values out of range."""
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
        """Return the part that determines the figures; digests of weights and of the classes are recorded beside it."""
        return replace(self, device="auto", checkpoint_digest="", text_encoder="", lpips_weights="", classes="")

    @property
    def lateral_shifts(self) -> tuple[Float[np.ndarray, "4 4"], ...]:
        """Return the moves to the left, to the right and up, as ``virtual_to_camera``, metres."""
        shifts = []
        for direction in ((-1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0)):
            shift = np.eye(4)
            shift[:3, 3] = np.array(direction) * self.lateral_shift_m
            shifts.append(shift)
        return tuple(shifts)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeakLabelConfig:
    """Configuration of weak labels.

    Attributes:
        prompt_template: Sentence with one ``{}`` for a class's word.
        text_encoder: Folder or hub id of the CLIP checkpoint; empty for the one recorded with the features.
        default_threshold: Raw probability from which a voxel counts as occupied, if no evaluation of the checkpoint
            chose one. The labels are then marked as uncalibrated.
        voxel_samples_per_axis: Points per voxel and axis of the lattice on which density is read.
        pixel_labels: True to label every rendered pixel as well.
        classes: Own classes, a YAML file or the name of a shipped list; empty for Occ3D's. The content counts for the
            digest, and not its place.
        device: Device of the student; no part of the digest.
        checkpoint_digest: Digest of the checkpoint; empty for the variant's current one.
    """

    prompt_template: str = DEFAULT_TEMPLATE
    text_encoder: str = ""
    default_threshold: float = 0.5
    voxel_samples_per_axis: int = 2
    pixel_labels: bool = True
    classes: str = ""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_digest: str = ""

    def __post_init__(self) -> None:
        """Reject values out of range."""
        if not 0 < self.default_threshold < 1:
            raise ValueError(f"default_threshold must lie in (0, 1), got {self.default_threshold}")
        if self.voxel_samples_per_axis < 1:
            raise ValueError(f"voxel_samples_per_axis must be at least 1, got {self.voxel_samples_per_axis}")
        if self.prompt_template.count("{}") != 1:
            raise ValueError(f"prompt_template needs exactly one '{{}}', got {self.prompt_template!r}")

    def determining(self) -> "WeakLabelConfig":
        """Return the part that determines the labels; digests of weights and of the classes are recorded beside it."""
        return replace(self, device="auto", checkpoint_digest="", text_encoder="", classes="")
