"""All figures that want an accelerator, in nine minutes: ``python -m pipeline.accelerator`` writes them as JSON.

Each part is a process of its own with a limit of time. A part that fails or takes too long is named in the record with
its last words, and the others go on. The record is written after every part, so that a cut run leaves what it measured.
``--toy`` runs the same parts on a processor, at sizes whose figures mean nothing.
"""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from pipeline.environments import nerf_worker_environment, nerfstudio_python
from pipeline.process_tree import ends_children
from storage.errors import EnvironmentMissingError
from storage.stores.durable import write_durably
from student.training.initial import initial_folder

logger = logging.getLogger("pipeline.accelerator")

Part = Literal["latency", "spconv", "step", "step-bfloat16", "pretraining", "teacher"]
PARTS: tuple[Part, ...] = ("latency", "spconv", "step-bfloat16", "step", "pretraining", "teacher")
_PUBLISHED_VIEWS = 18
"""Views that the published run renders in a step."""
_LATENCY, _STEP = (f"student.experiments.benchmarks.{name}" for name in ("accelerator", "memory"))
_SHARE_FOR_STEPS = 0.7
"""Share of the time of pretraining that steps get; the rest is for reading scenes and for judging."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorReport:
    """Measure student and scene teacher on an accelerator.

    Attributes:
        output: File of the record.
        parts: What to measure, in this order: ``latency`` of a pass beside the paper's, float32 against bfloat16;
            ``spconv`` beside our sparse convolution, where it is installed; training ``step`` of the published sizes
            with 18 views, time and memory, in float32 and bfloat16; ``pretraining`` steps from the shipped weights;
            ``teacher``, the fit of one scene.
        minutes: Time for all of it.
        recording: nuScenes recording whose scene-0916 the teacher is fitted to; without one, a drive is generated.
        wheels: Folder of wheels to install what nerfstudio's environment lacks from.
        pretraining_home: Home whose scenes the pretraining steps are taken on; ``python -m pipeline.pretraining scenes
            HOME --drives 2`` makes one, where there is no hurry.
        toy: Run on the processor, at the smallest sizes.
    """

    output: Path = Path("accelerator.json")
    parts: tuple[Part, ...] = PARTS
    minutes: float = 9.0
    recording: Path | None = None
    wheels: Path | None = None
    pretraining_home: Path | None = None
    toy: bool = False

    def run(self) -> dict[str, Any]:
        """Return the record: per part its ``status``, ``seconds`` and ``figures``, or the ``error`` that it ended with.

        ``status`` is ``measured``, ``failed``, ``too long`` or, where no time was left, ``left out``.
        """
        began = time.monotonic()
        record: dict[str, Any] = {"toy": self.toy, "parts": {}}
        for index, part in enumerate(self.parts):
            left_s = 60.0 * self.minutes - (time.monotonic() - began)
            share = left_s if index == len(self.parts) - 1 else min(left_s, self._limit_s(part))
            record["parts"][part] = self._measure(part, share)
            record["minutes"] = (time.monotonic() - began) / 60.0
            write_durably(self.output, (json.dumps(record, indent=1) + "\n").encode())
        return record

    def _measure(self, part: Part, limit_s: float) -> dict[str, Any]:
        began = time.monotonic()
        if limit_s < 1.0:
            return {"status": "left out", "error": f"{self.minutes} minutes are over"}
        if part == "pretraining" and self.pretraining_home is None:
            return {"status": "left out", "error": "no --pretraining-home"}
        try:
            found = _run(self._command(part, limit_s), limit_s)
        except EnvironmentMissingError as error:
            found = {"status": "failed", "error": str(error)}
        taken_s = time.monotonic() - began
        logger.info("%s: %s after %.0f s", part, found["status"], taken_s)
        return {**found, "seconds": taken_s}

    def _limit_s(self, part: Part) -> float:
        """Return the most seconds that a part gets, so that those after it have some."""
        return {"pretraining": 150.0, "teacher": 240.0}.get(part, 60.0) * self.minutes / 9.0

    def _command(self, part: Part, limit_s: float) -> list[str]:
        module, *flags = self._flags(part, limit_s)
        own_python = part != "teacher" or self.wheels is not None
        python = sys.executable if own_python else str(nerfstudio_python())
        # Warnings of nerfstudio's imports are none of ours.
        return [python, "-W", "ignore", "-m", module, *flags]

    def _flags(self, part: Part, limit_s: float) -> list[str]:
        """Return the module of a part and its flags."""
        device = ["--device", "cpu" if self.toy else "cuda"]
        smallest = ["--preset", "demo", "--height", "32", "--width", "56"] if self.toy else []
        match part:
            case "latency":
                return [_LATENCY, *device, *smallest, *(["--runs", "5"] if self.toy else [])]
            case "spconv":
                return ["pipeline.cli", "bench", "spconv", "--json"]
            case "step" | "step-bfloat16":
                precision = "bfloat16" if part == "step-bfloat16" else "float32"
                steps = ["--target-views", str(_PUBLISHED_VIEWS), "--steps", "2" if self.toy else "8"]
                return [_STEP, *device, *smallest, *steps, "--precision", precision]
            case "pretraining":
                home, seconds = str(self.pretraining_home), f"{_SHARE_FOR_STEPS * limit_s:.0f}"
                budget = ["--steps", "2"] if self.toy else ["--steps", "100000", "--seconds", seconds]
                return ["pipeline.pretraining", "fit", home, *budget, "--initial", str(initial_folder("shipped"))]
            case "teacher":
                recording = [] if self.recording is None else ["--recording", str(self.recording)]
                wheels = [] if self.wheels is None else ["--wheels", str(self.wheels)]
                size = ["--preset", "demo", "--height", "36", "--width", "64", "--max-steps", "8"] if self.toy else []
                minutes = ["--minutes", f"{0.9 * limit_s / 60.0:.2f}"]
                return ["pipeline.teacher_accelerator", *minutes, *device, *recording, *wheels, *size]


def _run(command: Sequence[str], limit_s: float) -> dict[str, Any]:
    """Run a part; its figures are the JSON object that it prints."""
    try:
        with ends_children():
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=limit_s,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **nerf_worker_environment()},
            )
    except subprocess.TimeoutExpired:
        return {"status": "too long", "error": f"not done after {limit_s:.0f} s"}
    if done.returncode == 0:
        return {"status": "measured", "figures": json.loads(done.stdout)}
    words = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return {"status": "failed", "error": words[-1] if words else f"exit code {done.returncode}"}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    sys.stdout.write(json.dumps(tyro.cli(AcceleratorReport, description=__doc__).run(), indent=1) + "\n")
