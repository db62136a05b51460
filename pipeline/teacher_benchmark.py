"""How soon the field is as good as nerfstudio's nerfacto, and how much truer its depth is in the same time.

``distillnerf bench teacher`` generates drives with exact depth, adds photographs where they are at hand, and races the
two on each in nerfstudio's environment. Both see the same images of the same frames, and are judged on the same
held-out pixels after every turn.
"""

import json
import logging
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from pipeline.environments import project_root
from pipeline.photographs import publish_photographs
from pipeline.resources import nerfstudio_from_environment
from storage.config_json import config_from_json
from storage.digests import config_json
from storage.errors import ErrorKind, TeacherDivergedError
from storage.ingest.run import ingest_scene
from storage.keys import SceneKey
from storage.procedural.config import ProceduralConfig
from storage.procedural.run import generate_dataset
from storage.stores.versioned import Home
from student.experiments.benchmarks.timing import BenchRecord
from teachers.nerf.config import FieldConfig, NerfConfig
from teachers.nerf.race import Race, RaceTask

logger = logging.getLogger(__name__)

FOX = Path("..") / "shared" / "data" / "fox"
"""Photographs of a static scene with poses, relative to the checkout; not part of this project."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherBenchConfig:
    """Size of the benchmark.

    Attributes:
        drives: Drives to generate.
        nerf: Our fit of a drive.
        fox: Our fit of the photographs; None leaves them out.
        turn_s: Processor time of a turn, seconds.
        reference_rays: Rays per step of nerfacto.
        judged_pixels: Held-out pixels that each fit is judged on.
    """

    drives: ProceduralConfig
    nerf: NerfConfig
    fox: NerfConfig | None
    turn_s: float
    reference_rays: int
    judged_pixels: int


def full_bench() -> TeacherBenchConfig:
    """Return the benchmark that figures are quoted from: three drives and the photographs, half an hour."""
    return TeacherBenchConfig(
        drives=ProceduralConfig(num_scenes=3, airside_share=0.34, seed=7),
        nerf=NerfConfig(use_sky_mask=False),
        fox=NerfConfig(use_sky_mask=False, image_height=160, image_width=90, holdout_every=8),
        turn_s=5.0,
        reference_rays=1024,
        judged_pixels=4800,
    )


def quick_bench() -> TeacherBenchConfig:
    """Return a run of a few seconds that shows that everything works; its figures mean nothing."""
    return TeacherBenchConfig(
        drives=ProceduralConfig(num_scenes=1, frames_per_scene=3, image_height=18, image_width=32, antialias=False),
        nerf=NerfConfig(
            use_sky_mask=False,
            image_height=18,
            image_width=32,
            num_steps=4,
            pixel_rays=128,
            lidar_pixel_rays=64,
            lidar_rays=64,
            field=FieldConfig(num_levels=3, log2_table_size=12),
        ),
        fox=None,
        turn_s=0.05,
        reference_rays=8,
        judged_pixels=64,
    )


def bench_teacher(*, quick: bool = False) -> BenchRecord:
    """Race our field against nerfacto; ``ratio`` is nerfacto's processor time to its best held-out PSNR over ours.

    Where ours never is as good, the ratio of that scene is 0, and its time that of our whole fit.

    Args:
        quick: Take seconds instead of half an hour; the figures then mean nothing.

    Raises:
        EnvironmentMissingError: If nerfstudio's environment is not installed.
        TeacherDivergedError: If a race ended without a result.
    """
    config = quick_bench() if quick else full_bench()
    details: dict[str, float | int | str] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        keys = generate_dataset(home, Path(folder) / "recordings", config.drives)
        for key in keys:
            ingest_scene(home, key)
        races = {str(key): _race(home, key, config.nerf, config) for key in keys}
        fox = project_root() / FOX
        if config.fox is None or not (fox / "transforms.json").is_file():
            details["fox"] = "left out" if config.fox is None else f"left out: no photographs at {fox}"
        else:
            key = SceneKey("photographs", "fox")
            publish_photographs(home, fox, key, height=config.fox.image_size[0])
            details |= _told("fox", _race(home, key, config.fox, config))
    for key, race in races.items():
        details |= _told(key, race)
    lead = median(race.lead() for race in races.values())
    reached = [race.when_ours_is_as_good() or race.ours[-1] for race in races.values()]
    shares = [share for race in races.values() if (share := race.depth_share()) is not None]
    return BenchRecord(
        name="teacher",
        ratio=lead,
        ours=median(mark.processor_s for mark in reached),
        reference=median(race.best_of_reference().processor_s for race in races.values()),
        unit="s",
        runs=len(races),
        details={
            "clock": "processor time",
            "reference_rays": config.reference_rays,
            "time_share": 1.0 / lead if lead else "never as good",
            "abs_rel_share": median(shares),
            **details,
        },
    )


def _race(home: Home, key: SceneKey, nerf: NerfConfig, config: TeacherBenchConfig) -> Race:
    """Run one race in nerfstudio's environment."""
    environment = nerfstudio_from_environment()
    task = RaceTask(
        home_root=str(home.root),
        scene_key=str(key),
        nerf=nerf,
        turn_s=config.turn_s,
        reference_rays=config.reference_rays,
        judged_pixels=config.judged_pixels,
    )
    with tempfile.TemporaryDirectory() as folder:
        written, result = Path(folder) / "task.json", Path(folder) / "result.json"
        written.write_text(json.dumps(config_json(task)))
        command = [str(environment.interpreter()), "-m", "teachers.nerf.benchmark"]
        command += ["--task-file", str(written), "--result-file", str(result)]
        done = subprocess.run(
            command,
            env={**os.environ, **environment.variables()},
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != 0 or not result.is_file():
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise TeacherDivergedError(
                ErrorKind.DIVERGED, str(key), f"the race ended with {done.returncode}: {last[0]}"
            )
        return config_from_json(Race, json.loads(result.read_text()), str(result))


def _told(name: str, race: Race) -> dict[str, float | int | str]:
    """Return the figures of one race, by names that begin with the scene's."""
    best, last, other = race.best_of_reference(), race.ours[-1], race.reference[-1]
    figures: dict[str, float | int | str] = {
        "lead": race.lead(),
        "reference_best_psnr": best.psnr,
        "psnr": last.psnr,
        "steps": last.steps,
        "reference_steps": other.steps,
        "processor_s": last.processor_s,
        "reference_processor_s": other.processor_s,
    }
    if last.abs_rel is not None and other.abs_rel is not None:
        figures |= {"abs_rel": last.abs_rel, "reference_abs_rel": other.abs_rel}
    return {f"{name}.{figure}": value for figure, value in figures.items()}
