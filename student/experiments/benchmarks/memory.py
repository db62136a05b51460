"""Peak memory of one training step of a student.

``python -m student.experiments.benchmarks.memory --height 128 --width 228`` is the command.

Inputs are six cameras of a street, and targets are the same views, once or more often. The loss is the plain error of
image and depth, which takes little memory beside the model. Each measurement is a process of its own, because peak
memory is counted per process.
"""

import json
import resource
import sys
from dataclasses import asdict, dataclass
from statistics import median
from typing import Literal

import torch
import tyro

from storage.freed_memory import reuse_freed_memory
from student.experiments.benchmarks.scene import NUM_CAMERAS, repeated_views, street_rig
from student.experiments.benchmarks.timing import seconds
from student.model.distillnerf import DistillNeRF
from student.model.types import to_device
from student.presets.students import student_preset


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Measure training steps.

    Attributes:
        preset: Preset of the widths, bins and grids.
        height: Rows of the images.
        width: Columns of the images.
        precision: Number format of convolutions and linear layers.
        device: Device to compute on.
        recompute_activations: Compute activations twice instead of keeping them.
        target_views: Views to render, a multiple of six; the published run has 18.
        steps: Number of steps. The first one also warms up.
    """

    preset: Literal["demo", "tiny", "small", "paper"] = "paper"
    height: int = 128
    width: int = 228
    precision: Literal["float32", "bfloat16"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    recompute_activations: bool = False
    target_views: int = NUM_CAMERAS
    steps: int = 1

    def run(self) -> dict[str, object]:
        """Take the steps, and return their memory and times.

        Raises:
            ValueError: If ``target_views`` is no multiple of six, or there is no step.
        """
        if self.target_views < NUM_CAMERAS or self.target_views % NUM_CAMERAS or self.steps < 1:
            raise ValueError(
                f"target_views {self.target_views} and steps {self.steps}, want a multiple of {NUM_CAMERAS} and >= 1"
            )
        torch.manual_seed(0)
        model = DistillNeRF(student_preset(self.preset, "depth_contracted").model).to(self.device).train()
        model.recomputes_activations = self.recompute_activations
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        channels = model.config.coarse_depth.depth_feature_channels
        inputs, cameras = street_rig(self.height, self.width, depth_feature_channels=channels)
        cameras = repeated_views(cameras, self.target_views // NUM_CAMERAS)
        inputs, cameras = to_device(inputs, self.device), to_device(cameras, self.device)
        before, voxels = self._peak_bytes(), 0

        def take() -> None:
            nonlocal voxels
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bfloat16"):
                output = model(inputs, cameras)
                assert output.image is not None
                depth = output.coarse_termination_depth.nan_to_num().log1p().mean()
                loss = (output.image - 0.5).square().mean() + depth
            loss.backward()
            optimizer.step()
            voxels = output.num_voxels["fine"]

        taken = [seconds(take, self.device) for _ in range(self.steps)]
        return {
            **asdict(self),
            "fine_voxels": voxels,
            "seconds": median(taken[1:] or taken),
            "first_step_seconds": taken[0],
            "peak_memory_bytes": self._peak_bytes(),
            "before_bytes": before,
        }

    def _peak_bytes(self) -> int:
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    reuse_freed_memory()
    sys.stdout.write(json.dumps(tyro.cli(TrainingMemory).run()) + "\n")
