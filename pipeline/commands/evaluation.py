"""Commands about one student: train, evaluate, fine-tune, pack, view."""

import dataclasses
import webbrowser
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro
from rich.console import Console
from rich.markup import escape

from pipeline.commands.options import ConfiguredCommand
from pipeline.commands.references import find_version
from pipeline.commands.runs import tell_failures
from pipeline.display import Display
from pipeline.run import run_tasks
from pipeline.run_config import HomeSelection
from pipeline.workflow import add_partitions, plan, prepare_home, publish_report, write_transfer_report
from storage.counted import counted
from storage.stores.versioned import Home, StoreVersion
from student.config import FinetuneConfig, FinetunedPart, FinetuneLabels, FinetuneTask, Variant
from student.inference.class_list import load_class_list


@dataclass(frozen=True, kw_only=True)
class Train(ConfiguredCommand):
    """Freeze a training set from the targets of a home, and fit a student on it.

    Attributes:
        train_scenes: Scenes to learn from; by default those of the home's last run.
        held_out_scenes: Scenes held out; by default those of the home's last run.
    """

    train_scenes: tuple[str, ...] = ()
    held_out_scenes: tuple[str, ...] = ()

    def run(self, console: Console) -> int:
        """Fit the student through Dagster."""
        home = self.open_home(must_exist=True)
        selection = self.selection(home).with_scenes(self.train_scenes, self.held_out_scenes)
        selection.scenes_to_learn_from()
        selection.save(home.root)
        prepare_home(home)
        variant = selection.variant
        tasks = plan({"training_set": [variant], "student_checkpoint": [variant]}, selection)
        outcome = run_tasks(tasks, home.root, console, num_workers=1)
        tell_failures(outcome, console)
        if outcome.succeeded:
            version = home.require("student_checkpoint", variant)
            console.print(f"checkpoint  {escape(home.url(version))}", soft_wrap=True)
        return 0 if outcome.succeeded else 1


@dataclass(frozen=True, kw_only=True)
class Evaluate(ConfiguredCommand):
    """Score a student on held-out frames, or on any scenes that it never saw, and write its report.

    Attributes:
        checkpoint: Student to score on --scenes: a variant or student_checkpoint/<variant>@<digest> of this home, the
            folder of a checkpoint in another home, a packed student's folder or hub id, or "shipped" for the one that
            comes with this package. By default the home's own.
        scenes: Scenes outside the student's training set, by key. By default the frames that its training held out.
        protocol: full scores all held-out frames; paper one frame per scene, against images resized as published, and
            shows the figures that the paper defines.
    """

    checkpoint: Annotated[str | None, tyro.conf.Positional] = None
    scenes: tuple[str, ...] = ()
    protocol: Literal["full", "paper"] = "full"

    def run(self, console: Console) -> int:
        """Evaluate through Dagster."""
        home = self.open_home(must_exist=True)
        kept = self.selection(home)
        selection = dataclasses.replace(kept, overrides=(*kept.overrides, f"evaluation.protocol={self.protocol}"))
        if self.scenes:
            return self._elsewhere(home, selection, console)
        if self.checkpoint:
            raise ValueError(
                f"checkpoint {self.checkpoint!r} is scored on scenes outside its training: want --scenes with it; "
                "--variant names the student whose held-out frames are scored"
            )
        home.require("student_checkpoint", selection.variant)
        kept.save(home.root)
        prepare_home(home)
        variant = selection.variant
        tasks = plan({"student_evaluation": [variant], "report": [variant]}, selection)
        outcome = run_tasks(tasks, home.root, console, num_workers=1)
        tell_failures(outcome, console)
        page = publish_report(home, selection.variant) if outcome.succeeded else None
        if page is not None:
            title = f"student {variant} on held-out frames, protocol {self.protocol}"
            _tell(home, home.require("student_evaluation", variant), title, console)
            console.print(f"report  {escape(str(page))}", soft_wrap=True)
        return 0 if outcome.succeeded else 1

    def _elsewhere(self, home: Home, selection: HomeSelection, console: Console) -> int:
        """Make what the student reads of the scenes, at its own sizes, and what judges it there, and score it."""
        folder = self._folder(home, selection.variant)
        from student.evaluation.evidence import EVIDENCE_FILE
        from student.evaluation.operating_point import evaluation_of
        from student.inference.checkpoint import student_of

        variant, data = student_of(folder)
        for scene in self.scenes:
            home.require("scene", scene)
        sizes = (f"input_images.height={data.image_height}", f"input_images.width={data.image_width}")
        here = dataclasses.replace(
            selection,
            variant=variant,
            overrides=(*selection.overrides, *sizes),
            checkpoint=str(folder),
            evaluated_scenes=self.scenes,
        )
        goals: dict[str, list[str | None]] = {
            "input_images": [*self.scenes],
            "occupancy_labels": [*self.scenes],
            "lidar_occupancy": [*here.evaluated_recordings],
            "transfer_evaluation": [variant],
        }
        if data.depth_anything:
            goals["depth_anything_features"] = [*self.scenes]
        own = home.latest("student_checkpoint", variant)
        if own is not None and own.digest == folder.name and evaluation_of(home, own, holding=EVIDENCE_FILE) is None:
            goals["student_evaluation"] = [variant]  # it chooses threshold and calibration
        prepare_home(home)
        add_partitions(home, self.scenes)
        outcome = run_tasks(plan(goals, here), home.root, console, num_workers=1)
        tell_failures(outcome, console)
        if not outcome.succeeded:
            return 1
        version = home.require("transfer_evaluation", variant)
        _tell(home, version, f"student {variant} on scenes outside its training", console)
        console.print(f"report  {escape(str(write_transfer_report(home, version)))}", soft_wrap=True)
        return 0

    def _folder(self, home: Home, variant: str) -> Path:
        """Return the folder of the student."""
        if self.checkpoint and Path(self.checkpoint).expanduser().is_dir():
            return Path(self.checkpoint).expanduser().resolve()
        named = self.checkpoint or variant
        if named in get_args(Variant) or named.startswith("student_checkpoint/"):
            return home.open_files(find_version(home, named))
        from pipeline.live import packed_folder

        return packed_folder(named)


def _tell(home: Home, evaluation: StoreVersion, title: str, console: Console) -> None:
    from pipeline.figures import tell_figures
    from student.evaluation.results import EvaluationResult

    tell_figures(EvaluationResult.from_json(home.metrics(evaluation)), console, title=title)


@dataclass(frozen=True, kw_only=True)
class Finetune(ConfiguredCommand):
    """Train a head on labelled voxels of a student's scenes, calibrate it, and score it on held-out scenes.

    The student's own weights stay as they are unless --student says otherwise.

    Attributes:
        task: What the head tells of a voxel: whether something is there, or its class too.
        labels: What it learns from: occ3d, Occ3D's labels beside a recording; or lidar, what the recording's own LiDAR
            beams tell (lidar_occupancy), for which nobody labels anything.
        max_scenes: Number of labelled scenes to learn from; by default all.
        steps: Optimisation steps.
        student: Part of the student that learns too: none of it, its voxel network, or all of a new one with random
            weights.
        device: Device to train on.
    """

    task: Annotated[FinetuneTask, tyro.conf.Positional]
    labels: FinetuneLabels = "occ3d"
    max_scenes: int | None = None
    steps: int = field(default_factory=lambda: FinetuneConfig().steps)
    student: FinetunedPart = "frozen"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def run(self, console: Console) -> int:
        """Train the head, and print its scores beside what they should beat."""
        home = self.open_home(must_exist=True)
        variant = self.variant or self.selection(home).variant
        home.require("student_checkpoint", variant)
        prepare_home(home)
        from student.applications.finetune import finetune_head

        config = FinetuneConfig(
            labels=self.labels,
            student=self.student,
            max_scenes=self.max_scenes,
            steps=self.steps,
            seed=self.seed or 0,
            device=self.device,
        )
        with Display(console, total=1) as display:
            task = f"head for {self.task}"
            display.begin(task)

            def tell(stage: str, fraction: float, figures: Mapping[str, Any]) -> None:
                display.advance(task, {"asset": stage, "fraction": fraction, "figures": figures})

            made = finetune_head(home, variant, self.task, config, tell)
            display.finish(task, succeeded=True, note="was there already" if made.reused else "trained")
        self._tell(made.metrics, console)
        console.print(f"head  {escape(home.url(made.version))}", soft_wrap=True)
        return 0

    def _tell(self, metrics: Mapping[str, Any], console: Console) -> None:
        """Print the scores beside what they should beat."""
        from pipeline.figures import tell_figures
        from student.evaluation.results import EvaluationResult

        tell_figures(
            EvaluationResult.from_json(metrics["evaluation"]),
            console,
            title=f"{self.task} on held-out frames",
            only=None,
        )
        scenes = counted(len(metrics["train_scenes"]), "scene")
        console.print(
            f"learned from {metrics['train_frames']} frames of {scenes}, calibrated on "
            f"{metrics['calibration_frames']} others; {metrics['unlabelled_frames']} frames have no labels",
            soft_wrap=True,
        )


@dataclass(frozen=True, kw_only=True)
class Pack(ConfiguredCommand):
    """Pack a student into one folder that needs no home: weights, words, thresholds, card, laid out for the model hub.

    Attributes:
        folder: New folder to write.
        digest: Digest of an exact version of the student; by default the current one.
        precision: Number format of the weights.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    digest: str | None = None
    precision: Literal["float32", "float16"] = "float16"

    def run(self, console: Console) -> int:
        """Pack the student, and say how to upload it."""
        home = self.open_home(must_exist=True)
        variant = self.selection(home).variant
        from pipeline.packing import pack_student

        companions = pack_student(home, variant, self.folder, self.digest, precision=self.precision)
        size = sum(path.stat().st_size for path in self.folder.iterdir()) / 1e6
        console.print(
            f"{escape(str(self.folder))}  {size:.1f} MB, licence {escape(companions.licence)}", soft_wrap=True
        )
        console.print(f"to publish it: hf upload OWNER/NAME {escape(str(self.folder))}", soft_wrap=True)
        return 0


@dataclass(frozen=True, kw_only=True)
class View(ConfiguredCommand):
    """Open the report of a student in the browser, or show a scene in 3-D as the student sees it.

    Attributes:
        scene: Key of the scene to show: points, voxels by class or by a text, cameras. By default the report is shown.
        port: Port of the 3-D viewer, which only this machine can reach.
        browser: Open a browser; otherwise only print the address.
        classes: Your own classes, a YAML file or the name of a shipped list, in place of Occ3D's.
        rerun: Write the scene into this file for Rerun's viewer instead; needs the package rerun-sdk.
    """

    scene: str | None = None
    port: int = 8080
    browser: bool = True
    classes: str | None = None
    rerun: Path | None = None

    def run(self, console: Console) -> int:
        """Open the report, or serve the scene until interrupted."""
        home = self.open_home(must_exist=True)
        variant = self.selection(home).variant
        if self.scene is not None:
            return self._serve(home, self.scene, variant, console)
        if self.rerun is not None:
            raise ValueError("--rerun writes a scene: want --scene with it")
        home.require("report", variant)
        page = publish_report(home, variant)
        console.print(str(page), soft_wrap=True)
        if self.browser and page is not None:
            webbrowser.open(page.as_uri())
        return 0

    def _serve(self, home: Home, scene: str, variant: str, console: Console) -> int:
        for kind, partition in (("scene", scene), ("student_checkpoint", variant)):
            home.require(kind, partition)
        if self.rerun is not None:
            return self._record(home, scene, variant, self.rerun, console)
        from student.applications.viewer import serve_scene

        classes = None if self.classes is None else load_class_list(self.classes)
        server = serve_scene(home, scene, variant, port=self.port, classes=classes)
        address = f"http://{server.get_host()}:{server.get_port()}"
        console.print(f"{address}  (interrupt to stop)", soft_wrap=True)
        if self.browser:
            webbrowser.open(address)
        try:
            server.sleep_forever()
        except KeyboardInterrupt:
            server.stop()
        return 0

    def _record(self, home: Home, scene: str, variant: str, path: Path, console: Console) -> int:
        from student.applications.rerun_log import record_scene

        classes = None if self.classes is None else load_class_list(self.classes)
        with Display(console, total=1) as display:
            display.begin(scene)

            def tell(fraction: float) -> None:
                display.advance(scene, {"asset": "record", "fraction": fraction, "figures": {}})

            number = record_scene(home, scene, variant, path, classes=classes, on_frame=tell)
            display.finish(scene, succeeded=True, note=f"{number} frames")
        console.print(f"rerun  {escape(str(path))}", soft_wrap=True)
        return 0
