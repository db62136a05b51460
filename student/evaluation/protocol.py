"""The two protocols of an evaluation, and what keeps the published one from being like for like.

``full`` scores every held-out frame as a user would see it. ``paper`` scores one frame per scene (DistillNeRF Sec. 4.1)
on images that were resized as published: bilinear, without antialiasing.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from storage.digests import file_digest
from student.data.frames import StoreFrames
from student.evaluation.results import Section
from student.evaluation.sections.images import Perceptual
from student.losses.perceptual import MultiScaleDissimilarity, perceptual_distance

PAPER_NOTES = (
    "The paper's protocol: one frame per scene, and images resized bilinearly without antialiasing, those that the "
    "student reads and those that it is compared with. The student learned from antialiased ones.",
    "What still differs from the published figures: this student's sizes, its scenes, the grid and range of feature "
    "PSNR, no filled sky in the reference of depth, and distance along the ray instead of z.",
)
_NO_PAPER_FIGURE = "not available: the paper's protocol defines no such figure"


class PublishedResize(StoreFrames):
    """Frames whose images are resized from the recording as the published evaluation does."""

    def images(self, frames: range) -> UInt8[np.ndarray, "frames cameras height width 3"]:
        """Return the input images of some frames, bilinear and not antialiased."""
        height, width = super().images(range(frames.start, frames.start + 1)).shape[2:4]
        return np.stack(
            [
                np.stack(
                    [resized_as_published(self.reader.image(f, c), height, width) for c in range(self.num_cameras)]
                )
                for f in frames
            ]
        )


def resized_as_published(
    image: UInt8[np.ndarray, "rows columns 3"], height: int, width: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Return an image resampled bilinearly from the four pixels around each new centre, whatever lies between."""
    planes = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    found = torch.nn.functional.interpolate(planes, size=(height, width), mode="bilinear", antialias=False)
    return found[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()


def of_the_paper(section: Section) -> Section:
    """Return a section with the figures that the paper defines alone."""
    figures = tuple(figure for figure in section.figures if figure.protocol == "paper")
    if section.unavailable or figures:
        return replace(section, figures=figures)
    return replace(section, figures=(), unavailable=_NO_PAPER_FIGURE)


def perceptual_of(weights: str) -> Perceptual:
    """Return LPIPS with the weights of a file, or its declared substitute without any.

    Raises:
        MissingTargetError: If there is no such file.
        SourceDataError: If its tensors are no LPIPS.
    """
    distance = perceptual_distance(Path(weights).expanduser() if weights else None)

    @torch.inference_mode()
    def mean(
        views: Float[np.ndarray, "views height width channels"],
        reference: Float[np.ndarray, "views height width channels"],
    ) -> float:
        if isinstance(distance, MultiScaleDissimilarity) and min(views.shape[1:3]) < distance.window:
            return float("nan")
        pair = (torch.from_numpy(np.ascontiguousarray(x, np.float32)).permute(0, 3, 1, 2) for x in (views, reference))
        return float(distance(*pair).mean())

    if weights:
        return Perceptual(name="lpips", label="LPIPS", definition="Learned perceptual distance, VGG.", distance=mean)
    return Perceptual(
        name="dissimilarity",
        label="dissimilarity",
        definition="One minus structural similarity, mean over three scales: the declared substitute for LPIPS, whose "
        "weights were not given (evaluation.lpips_weights). It is no LPIPS and not to be compared with one.",
        distance=mean,
    )


def perceptual_digests(weights: str) -> dict[str, str]:
    """Return the digest of the LPIPS weights by name, for a provenance; empty without any."""
    return {"lpips": file_digest(Path(weights).expanduser())} if weights else {}


def frames_class(protocol: str) -> type[StoreFrames]:
    """Return how frames are read under a protocol."""
    return PublishedResize if protocol == "paper" else StoreFrames


def notes_of(protocol: str) -> Sequence[str]:
    """Return what a reader must know of a protocol."""
    return PAPER_NOTES if protocol == "paper" else ()
