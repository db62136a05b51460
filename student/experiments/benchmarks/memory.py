"""Peak memory of one training step of a student.

``python -m student.experiments.benchmarks.memory --height 128 --width 228`` is the command.

Inputs and targets are six cameras of a street. The loss is the plain error of image and depth, which takes little
memory beside the model. Each measurement is a process of its own, because peak memory is counted per process.
"""

import json
import logging
import resource
import time
from dataclasses import asdict, dataclass
from typing import Literal

import torch
import tyro

from storage.freed_memory import reuse_freed_memory
from student.experiments.benchmarks.scene import street_rig
from student.model.distillnerf import DistillNeRF
from student.model.types import to_device
from student.presets.students import student_preset

logger = logging.getLogger("student.experiments.benchmarks.memory")


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Measure one training step.

    Attributes:
        preset: Preset of the widths, bins and grids.
        height: Rows of the images.
        width: Columns of the images.
        precision: Number format of convolutions and linear layers.
        device: Device to compute on.
        recompute_activations: Compute activations twice instead of keeping them.
    """

    preset: Literal["demo", "tiny", "small", "paper"] = "paper"
    height: int = 128
    width: int = 228
    precision: Literal["float32", "bfloat16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    recompute_activations: bool = False

    def run(self) -> dict[str, object]:
        """Take one step, and return its memory and time."""
        torch.manual_seed(0)
        model = DistillNeRF(student_preset(self.preset, "depth_contracted").model).to(self.device).train()
        model.recomputes_activations = self.recompute_activations
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        channels = model.config.coarse_depth.depth_feature_channels
        inputs, cameras = street_rig(self.height, self.width, depth_feature_channels=channels)
        inputs, cameras = to_device(inputs, self.device), to_device(cameras, self.device)
        before = self._peak_bytes()
        began = time.perf_counter()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bfloat16"):
            output = model(inputs, cameras)
            assert output.image is not None
            loss = (output.image - 0.5).square().mean() + output.coarse_termination_depth.nan_to_num().log1p().mean()
        loss.backward()
        optimizer.step()
        peak = self._peak_bytes()
        return {
            **asdict(self),
            "fine_voxels": output.num_voxels["fine"],
            "seconds": time.perf_counter() - began,
            "peak_memory_bytes": peak,
            "before_bytes": before,
        }

    def _peak_bytes(self) -> int:
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    reuse_freed_memory()
    logger.info("%s", json.dumps(tyro.cli(TrainingMemory).run()))
