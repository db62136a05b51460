"""Time of one forward pass on an accelerator: ``python -m student.experiments.benchmarks.accelerator``.

It measures the latency of a preset on six images, of the two halves that the paper names and beside the paper's figure,
the difference between bfloat16 and float32, and the memory of a pass. ``distillnerf bench spconv`` compares the sparse
convolution, and ``python -m student.experiments.benchmarks.memory --device cuda`` measures a training step.
"""

import json
import sys
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from storage.freed_memory import reuse_freed_memory
from student.experiments.benchmarks.scene import NUM_CAMERAS, street_rig
from student.experiments.benchmarks.timing import device_name, seconds
from student.model.distillnerf import DistillNeRF
from student.model.types import StudentOutput, to_device
from student.presets.students import student_preset

PAPER_SECONDS = {"encoder": 0.3594, "renderer": 0.1273}
"""Published time for six images of 128x228 on an RTX 4090, seconds (DistillNeRF Tab. 7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """Time a student from images to rendered views, with random weights.

    Attributes:
        preset: Preset of the widths, bins and grids.
        height: Rows of the images.
        width: Columns of the images.
        device: Device to compute on.
        runs: Passes in each number format, after three that are not counted.
    """

    preset: Literal["demo", "tiny", "small", "paper"] = "paper"
    height: int = 128
    width: int = 228
    device: Literal["cpu", "cuda"] = "cuda"
    runs: int = 20

    @torch.inference_mode()
    def run(self) -> dict[str, Any]:
        """Return the measured figures.

        Raises:
            ValueError: If there is no such device, or there are fewer than 5 runs.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("there is no CUDA device here: --device cpu takes the processor")
        if self.runs < 5:
            raise ValueError(f"runs must be at least 5, got {self.runs}")
        torch.manual_seed(0)
        model = DistillNeRF(student_preset(self.preset, "depth_contracted").model).to(self.device).eval()
        full, exact = self._timed(model, torch.float32)
        reduced, rounded = self._timed(model, torch.bfloat16)
        return {
            **asdict(self),
            "device": device_name(self.device),
            "torch": torch.__version__,
            "cameras": NUM_CAMERAS,
            "fine_voxels": exact.num_voxels["fine"],
            "float32": full,
            "bfloat16": {**reduced, **_differences(exact, rounded)},
            "paper_seconds": {**PAPER_SECONDS, "total": sum(PAPER_SECONDS.values())},
        }

    def _timed(self, model: DistillNeRF, dtype: torch.dtype) -> tuple[dict[str, float], StudentOutput]:
        inputs, targets = street_rig(
            self.height, self.width, depth_feature_channels=model.config.coarse_depth.depth_feature_channels
        )
        inputs, targets = to_device(inputs, self.device), to_device(targets, self.device)
        with torch.autocast(self.device, dtype, enabled=dtype is not torch.float32):
            for _ in range(3):
                output = model(inputs, targets)
            if self.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            field = model.encode(inputs)
            taken = {
                "encoder": [seconds(lambda: model.encode(inputs), self.device) for _ in range(self.runs)],
                "renderer": [seconds(lambda: model.render(field, targets), self.device) for _ in range(self.runs)],
                "total": [seconds(lambda: model(inputs, targets), self.device) for _ in range(self.runs)],
            }
        figures = {f"{part}_seconds": median(times) for part, times in taken.items()}
        figures["slowest_seconds"] = max(taken["total"])
        if self.device == "cuda":
            figures["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
        return figures, output


def _differences(exact: StudentOutput, rounded: StudentOutput) -> dict[str, float]:
    assert exact.image is not None
    assert rounded.image is not None

    def relative(one: Tensor, other: Tensor) -> float:
        both = torch.isfinite(one) & torch.isfinite(other)
        return float(((one - other).abs() / one)[both].median())

    return {
        "image_psnr_db": float(-10 * (exact.image - rounded.image.float()).square().mean().log10()),
        "median_relative_depth_difference": relative(exact.termination_depth, rounded.termination_depth),
        "median_relative_coarse_depth_difference": relative(
            exact.coarse_termination_depth, rounded.coarse_termination_depth
        ),
    }


if __name__ == "__main__":
    reuse_freed_memory()
    sys.stdout.write(json.dumps(tyro.cli(Glance).run(), indent=1) + "\n")
