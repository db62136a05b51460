"""The scene teacher on an accelerator, in four minutes: ``python -m pipeline.teacher_accelerator`` prints JSON.

It runs in nerfstudio's environment: a scene is ingested, its field fitted as a preset says, for as many steps as the
time allows, and judged on held-out frames. tiny-cuda-nn is taken where it can be imported. Nothing is downloaded: what
is missing is installed from a folder of wheels, if one is given, and otherwise named.
"""

import dataclasses
import importlib.util
import itertools
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from storage.errors import EnvironmentMissingError, ErrorKind

logger = logging.getLogger("pipeline.teacher_accelerator")

_NEEDED = ("torch", "nerfstudio", "jaxtyping", "safetensors", "zarr", "icechunk", "tyro", "pyarrow", "pydantic", "PIL")
_PROBE_STEPS = 20
_SHARE_FOR_STEPS = 0.7
"""Share of the time that steps get; the rest is for reading, judging and publishing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherGlance:
    """Fit one scene and say how well, how fast and with how much memory.

    Attributes:
        recording: Folder of a nuScenes recording; without one, a drive is generated.
        scene: Name of the recording's scene.
        home: Home that already holds the scene ``scene_key``, in place of a recording. It is written to.
        scene_key: Key of the home's scene.
        preset: Preset of the field.
        height: Rows of the images.
        width: Columns of the images.
        minutes: Time for all of it.
        max_steps: Most optimisation steps; None for the preset's.
        device: Device to fit on.
        wheels: Folder of wheels to install what is missing from.
    """

    recording: Path | None = None
    scene: str = "scene-0916"
    home: Path | None = None
    scene_key: str | None = None
    preset: Literal["demo", "tiny", "small", "paper"] = "small"
    height: int = 450
    width: int = 800
    minutes: float = 4.0
    max_steps: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    wheels: Path | None = None

    def run(self) -> dict[str, Any]:
        """Return the measured figures.

        Raises:
            EnvironmentMissingError: If packages are missing and there are no wheels of them.
            ValueError: If there is no such device, or a home is given without a scene.
        """
        began = time.monotonic()
        install_missing(self.wheels)
        if (self.home is None) != (self.scene_key is None):
            raise ValueError(f"home {self.home} and scene_key {self.scene_key}: want both or neither")
        with tempfile.TemporaryDirectory() as folder:
            return self._fit(Path(folder), began)

    def _fit(self, folder: Path, began: float) -> dict[str, Any]:
        from teachers.nerf.torchvision_shim import declare_missing_operators

        declare_missing_operators()
        import torch

        from pipeline.presets import build_preset
        from storage.kinds import Kind
        from storage.stores.versioned import Home
        from teachers.nerf.fit import fit_scene
        from teachers.nerf.teacher import resolve_device

        home = Home(folder / "home" if self.home is None else self.home)
        key = self._scene(home, folder) if self.scene_key is None else self.scene_key
        nerf = build_preset(self.preset, variant="depth_contracted_virtual").nerf
        nerf = dataclasses.replace(
            nerf,
            image_height=self.height,
            image_width=self.width,
            use_sky_mask=home.latest(Kind.SKY_MASK, key) is not None,
            execution=dataclasses.replace(nerf.execution, device=self.device),
        )
        device = resolve_device(nerf.execution)
        most = nerf.num_steps if self.max_steps is None else self.max_steps
        probe = fit_scene(home, key, dataclasses.replace(nerf, num_steps=min(_PROBE_STEPS, most))).metrics
        rays = nerf.pixel_rays + nerf.lidar_pixel_rays + nerf.lidar_rays
        left_s = 60.0 * self.minutes - (time.monotonic() - began)
        steps = min(most, max(1, int(_SHARE_FOR_STEPS * left_s * probe["rays_per_s"] / rays)))
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        fitted = fit_scene(home, key, dataclasses.replace(nerf, num_steps=steps))
        metrics, on_cuda = fitted.metrics, device == "cuda"
        return {
            "scene": key,
            "preset": self.preset,
            "height": self.height,
            "width": self.width,
            "device": torch.cuda.get_device_name() if on_cuda else "cpu",
            "torch": torch.__version__,
            "implementation": _implementation(home.open_files(fitted.version)),
            "steps": steps,
            "rays_per_s": metrics["rays_per_s"],
            "psnr_db": metrics["psnr"],
            "static_psnr_db": metrics["static_psnr"],
            "lidar_abs_rel": metrics["lidar_abs_rel"],
            "lidar_beam_abs_rel": metrics["lidar_beam_abs_rel"],
            "gate_passed": metrics["quality"]["passed"],
            "minutes": (time.monotonic() - began) / 60.0,
            "peak_device_memory_bytes": torch.cuda.max_memory_allocated() if on_cuda else None,
            "peak_memory_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        }

    def _scene(self, home: Any, folder: Path) -> str:  # noqa: ANN401 - what it is cannot be imported on a bare machine
        """Ingest the recording's scene, or a generated one, and return its key."""
        # Not through storage.ingest.run, whose readers of other formats want packages that this environment lacks.
        from storage.ingest.nuscenes.recording import NuScenesRecording
        from storage.ingest.raw_scene import IngestConfig
        from storage.ingest.scene_writer import materialize_scene
        from storage.ingest.source import load_source, register_source, usual_source
        from storage.keys import SceneKey
        from storage.procedural.config import ProceduralConfig
        from storage.procedural.run import generate_dataset

        if self.recording is None:
            drive = ProceduralConfig(num_scenes=1, image_height=self.height, image_width=self.width)
            (key,) = generate_dataset(home, folder / "recordings", drive)
        else:
            source = usual_source("nuscenes", self.recording)
            register_source(home, source)
            key = SceneKey(source.dataset, self.scene)
        source, config = load_source(home, key.dataset), IngestConfig()
        materialize_scene(
            home,
            key,
            source,
            NuScenesRecording(source, key.scene_name, config),
            config,
            reader_module=NuScenesRecording.__module__,
            reader_packages=(),
            on_progress=lambda *_: None,
        )
        return str(key)


def _implementation(folder: Path) -> str:
    """Return the grids that a field was fitted with, as its artifact says."""
    return json.loads((folder / "field.json").read_text())["config"]["field"]["implementation"]


def missing_packages() -> list[str]:
    """Return the modules that this environment lacks."""
    return [name for name in _NEEDED if importlib.util.find_spec(name) is None]


def install_missing(wheels: Path | None) -> None:
    """Install what is missing from a folder of wheels, without network.

    Raises:
        EnvironmentMissingError: If something is missing then. The message names it.
    """
    missing = missing_packages()
    if missing and wheels is not None:
        logger.info("installing %s from %s", ", ".join(missing), wheels)
        names = ["pillow" if name == "PIL" else name for name in missing]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", str(wheels), *names]
        subprocess.run(command, check=False, stdin=subprocess.DEVNULL)
        importlib.invalidate_caches()
        missing = missing_packages()
    if missing:
        raise EnvironmentMissingError(
            ErrorKind.ENVIRONMENT_MISSING,
            sys.executable,
            f"no {', '.join(missing)}: start this in nerfstudio's environment ('make environments' builds it), or give "
            "--wheels a folder that 'pip download -r environments/nerfstudio.txt' filled where there is a network",
        )


def main() -> int:
    """Measure and print; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        install_missing(_wheels(sys.argv[1:]))  # also brings what reads the other flags
    except EnvironmentMissingError as error:
        logger.error("%s", error)  # noqa: TRY400 - one line for people
        return 3
    import tyro

    glance = tyro.cli(TeacherGlance)
    sys.stdout.write(json.dumps(glance.run(), indent=1) + "\n")
    return 0


def _wheels(arguments: list[str]) -> Path | None:
    given = [value for flag, value in itertools.pairwise(arguments) if flag == "--wheels"]
    return Path(given[-1]) if given else None


if __name__ == "__main__":
    sys.exit(main())
