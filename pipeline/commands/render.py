"""``distillnerf render``: a film of a scene as a student sees it, and its stills."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.markup import escape

from pipeline.commands.options import ConfiguredCommand
from pipeline.display import Display
from storage.kinds import FeatureSource, Kind
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home
from student.config import SHIPPED

_EVERY_CAMERA = "all"


@dataclass(frozen=True, kw_only=True)
class Render(ConfiguredCommand):
    """Render a scene along a path as a student sees it: colours, depth, features, words; stills and a film.

    The same command goes on where an interrupted one stopped.

    Attributes:
        checkpoint: Variant of the student, such as "clip", or clip@DIGEST for an exact version (its first letters are
            enough); the folder of a packed student; or "shipped" for the one that comes with this package.
        scene: Key of the scene, which need not be one that the student learned from.
        path: Follow the vehicle, or orbit around a point of one frame.
        frames: First and last frame of the path; an orbit takes the first. By default all; for an orbit the middle one.
        steps: Views from one frame to the next; more than one are interpolated between them.
        offset: Where the rig stands beside the recorded one, metres forward, left, up.
        turn: Turn of the rig to the left, degrees.
        orbit_radius: Radius of an orbit, metres.
        orbit_height: Height of an orbiting camera above its centre, metres.
        orbit_centre: Centre of an orbit in the vehicle's axes (forward, left, up), metres.
        orbit_views: Views of an orbit.
        cameras: Names of cameras, or "all"; by default the one that looks ahead.
        show: What is shown; by default colours, depth, features where the student renders some, and words if any are
            given.
        words: Texts whose probability is shown.
        negatives: Texts that compete with them; by default the whole vocabulary.
        features: Foundation model whose features are shown; by default the first that the student renders.
        teacher: Show the scene's own field beside the student.
        out: Folder for the result; by default one of its own below the home.
        overwrite: Throw away another rendering in that folder.
        tile_width: Width of each picture in the film, pixels.
        fps: Pictures per second of the film; by default as the recording.
        rerun: File to write all views into as well, for Rerun's viewer; needs the package rerun-sdk.
        device: Device of the student.
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    scene: Annotated[str, tyro.conf.Positional]
    path: Literal["recorded", "orbit"] = "recorded"
    frames: tuple[int, int] | None = None
    steps: int = 1
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn: float = 0.0
    orbit_radius: float = 10.0
    orbit_height: float = 5.0
    orbit_centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    orbit_views: int = 48
    cameras: tuple[str, ...] = ()
    show: tuple[Literal["rgb", "depth", "features", "words"], ...] = ()
    words: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    features: FeatureSource | None = None
    teacher: bool = False
    out: Path | None = None
    overwrite: bool = False
    tile_width: int = 320
    fps: float = 0.0
    rerun: Path | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def run(self, console: Console) -> int:
        """Render, and print the folder."""
        home = self.open_home(must_exist=True)
        settings = self.selection(home).resolve()
        home.require(Kind.SCENE, self.scene)
        if self.path == "orbit" and (any(self.offset) or self.turn or self.steps != 1):
            raise ValueError("--offset, --turn and --steps belong to --path recorded; an orbit has --orbit-centre")
        from pipeline.live import Student
        from pipeline.rendering import RenderConfig, into_rerun, render_scene
        from student.applications.camera_path import PathConfig
        from student.applications.rerun_log import RerunRecording

        scene = SceneReader.open(home, self.scene)
        first, last = self.frames or self._all_frames(scene)
        path = PathConfig(
            kind=self.path,
            first=first,
            last=last,
            steps_per_frame=self.steps,
            offset_m=self.offset,
            turn_deg=self.turn,
            orbit_views=self.orbit_views,
            orbit_radius_m=self.orbit_radius,
            orbit_height_m=self.orbit_height,
            orbit_centre_m=self.orbit_centre,
        )
        cameras = self._cameras(scene)
        recording = None if self.rerun is None else RerunRecording(self.rerun)
        student = self._open_student(home, Student)
        sources = student.predictor.feature_sources
        config = RenderConfig(
            path=path,
            cameras=cameras,
            products=self.show
            or ("rgb", "depth", *(["features"] if sources else []), *(["words"] if self.words else [])),
            texts=self.words,
            negatives=self.negatives,
            feature_source=self.features or (sources[0] if sources else "clip"),
            teacher=self.teacher,
            tile_width=self.tile_width,
            frames_per_second=self.fps,
        )
        with recording or nullcontext(), Display(console, total=1) as display:
            task = f"render {self.scene}"
            display.begin(task)

            def tell(stage: str, fraction: float, figures: Mapping[str, Any]) -> None:
                display.advance(task, {"asset": stage, "fraction": fraction, "figures": figures})

            made = render_scene(
                home,
                student,
                self.scene,
                config,
                settings,
                self.out,
                replace_existing=self.overwrite,
                on_progress=tell,
                on_view=None if recording is None else into_rerun(recording, scene, config),
            )
            reused = made.num_steps - made.num_made
            display.finish(task, succeeded=True, note=f"{made.num_made} steps rendered, {reused} were there already")
        for note in made.notes:
            console.print(f"[yellow]note[/yellow]  {escape(note)}", soft_wrap=True)
        console.print(f"film  {escape(str(made.film))}", soft_wrap=True)
        if self.rerun is not None:
            console.print(f"rerun  {escape(str(self.rerun))}", soft_wrap=True)
        console.print(f"stills and sheets  {escape(str(made.folder))}", soft_wrap=True)
        return 0

    def _all_frames(self, scene: SceneReader) -> tuple[int, int]:
        middle = scene.num_frames // 2
        return (middle, middle) if self.path == "orbit" else (0, scene.num_frames - 1)

    def _cameras(self, scene: SceneReader) -> tuple[int, ...]:
        from student.applications.camera_path import forward_camera

        if not self.cameras:
            return (forward_camera(scene),)
        if self.cameras == (_EVERY_CAMERA,):
            return tuple(range(scene.num_cameras))
        unknown = [name for name in self.cameras if name not in scene.camera_names]
        if unknown or len(set(self.cameras)) != len(self.cameras):
            raise ValueError(
                f"cameras {', '.join(self.cameras)}: want each once, of {', '.join(scene.camera_names)}, or all"
            )
        return tuple(scene.camera_names.index(name) for name in self.cameras)

    def _open_student(self, home: Home, students: Any) -> Any:  # noqa: ANN401 - the class is heavy to import
        if self.checkpoint == SHIPPED or Path(self.checkpoint).expanduser().is_dir():
            return students.from_pretrained(self.checkpoint, device=self.device)
        variant, _, start = self.checkpoint.partition("@")
        return students.open(home, variant, checkpoint_digest(home, variant, start), device=self.device)


def checkpoint_digest(home: Home, variant: str, start: str) -> str | None:
    """Return the digest of a student's version by its first letters; None, for the current one, without any.

    Raises:
        MissingTargetError: If there is no such student.
        ValueError: If no version, or more than one, begins like that.
    """
    current = home.require(Kind.STUDENT_CHECKPOINT, variant)
    if not start:
        return current.digest
    digests = [version.digest for version in home.versions(Kind.STUDENT_CHECKPOINT, variant)]
    found = [digest for digest in digests if digest.startswith(start)]
    if len(found) != 1:
        known = ", ".join(digest[:12] for digest in digests)
        raise ValueError(f"{variant}@{start} names {len(found)} versions; the home has {known}")
    return found[0]
