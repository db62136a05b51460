"""Rehearse a preset of published sizes from raw frames to the report: ``python -m pipeline.rehearsal small HOME``.

Everything has its published size but the time that it is given: two short procedural drives of 1600x900 images in
nuScenes' layout, the architectures of every image teacher with random weights, a few steps of field and student. No
figure means anything; that it runs, how long each asset takes and how much memory does. ``HOME/rehearsal.json`` has it.
"""

import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from pipeline.cli import main as distillnerf
from pipeline.presets import build_preset
from storage.kinds import KINDS
from storage.stores.durable import write_durably
from student.config import Variant
from teachers.image.stand_ins import write_stand_ins

logger = logging.getLogger("pipeline.rehearsal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """Rehearse a preset.

    Attributes:
        preset: The preset.
        home: Folder of everything that it writes; running again goes on.
        variant: Student variant.
        height: Rows of the recorded images.
        width: Columns of the recorded images.
        frames: Frames of each drive.
        field_steps: Optimisation steps of each scene's field.
        student_steps: Optimisation steps of the student.
        set: Further changes of single fields, as dotted.name=value.
    """

    preset: Annotated[Literal["small", "paper"], tyro.conf.Positional]
    home: Annotated[Path, tyro.conf.Positional]
    variant: Variant = "clip"
    height: int = 900
    width: int = 1600
    frames: int = 4
    field_steps: int = 20
    student_steps: int = 2
    set: tuple[str, ...] = ()

    def run(self) -> int:
        """Run everything; return the exit code of the run."""
        changes = [*self.overrides(), *self.set]
        command = ["demo", "--home", str(self.home), "--preset", self.preset, "--variant", self.variant]
        code = distillnerf([*command, "--set", *changes])
        path = self.home / "summary.json"
        if not path.is_file():  # the run was stopped before it had anything to tell
            return code
        summary = json.loads(path.read_text())
        record = {"preset": self.preset, "overrides": changes, **measured(summary)}
        write_durably(self.home / "rehearsal.json", (json.dumps(record, indent=1) + "\n").encode())
        logger.info("%s", table(record))
        return code

    def overrides(self) -> list[str]:
        """Write the stand-ins of the image teachers, and return what differs from the preset."""
        preset = build_preset(self.preset, variant=self.variant)
        teachers = write_stand_ins(preset.image_teachers, self.home / "stand-ins")
        return [
            "procedural.num_scenes=2",
            "procedural.antialias=false",
            f"procedural.frames_per_scene={self.frames}",
            f"procedural.image_height={self.height}",
            f"procedural.image_width={self.width}",
            f"image_teachers.sky.weights.source={teachers.sky.weights.source}",
            f"image_teachers.depth_anything.weights.source={teachers.depth_anything.weights.source}",
            f"image_teachers.dinov2_basis.extractor.weights.source={teachers.dinov2_basis.extractor.weights.source}",
            f"image_teachers.clip_basis.extractor.weights.source={teachers.clip_basis.extractor.weights.source}",
            f"nerf.num_steps={self.field_steps}",
            f"feature_field.num_steps={self.field_steps}",
            f"student.fit.max_steps={self.student_steps}",
            f"student.fit.occupancy.steps={self.student_steps}",
            # The same gradients, in what memory a processor has: one sample after the other.
            f"student.fit.runtime.accumulation_steps={preset.student.data.batch_size}",
            "student.fit.runtime.recompute_activations=true",
            # Nothing that random weights make passes a gate.
            f"split.allow_ungated={json.dumps([name for name, spec in KINDS.items() if spec.is_gated])}",
            "evaluation.max_frames_per_scene=1",
            "evaluation.num_training_frames=1",
        ]


def measured(summary: dict[str, Any]) -> dict[str, Any]:
    """Return whether a run succeeded, and what it took."""
    return {
        "succeeded": summary["succeeded"],
        "failures": summary["failures"],
        "wall_time_s": summary["wall_time_s"],
        "peak_memory_bytes": summary["peak_memory_bytes"],
        "seconds": {name: entry["build_s"] for name, entry in summary["assets"].items()},
        "store_bytes": summary["store_bytes"],
    }


def table(record: dict[str, Any]) -> str:
    """Return seconds and bytes of each asset as a Markdown table."""
    rows = ["| asset | seconds | MB |", "|---|---|---|"]
    for name, seconds in record["seconds"].items():
        rows.append(f"| `{name}` | {seconds:.0f} | {record['store_bytes'].get(name, 0) / 1e6:.1f} |")
    peak = record["peak_memory_bytes"] / 2**30
    return "\n".join([*rows, f"\n{record['wall_time_s']:.0f} s, peak memory {peak:.1f} GiB over all processes"])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(tyro.cli(Rehearsal, description=__doc__).run())
