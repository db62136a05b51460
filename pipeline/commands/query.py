"""``distillnerf query``: look for something in a scene in words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.commands.options import ConfiguredCommand
from pipeline.file_names import question_name
from pipeline.presets import PipelineConfig
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home
from student.applications.answers import QueryAnswer
from student.inference.class_list import ClassList, asked, load_class_list, part_prompts

_NUM_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Query(ConfiguredCommand):
    """Search a scene by words: a heat map per camera, and the objects that match best.

    A student answers from one frame, in voxels; the scene's own field (--teacher) from all frames, in points.

    Attributes:
        text: Text to look for, such as "a red car".
        teacher: Ask the scene's feature field instead of a student.
        part: Part of what the text names, looked for within the best object alone.
        shift: Where the heat maps' cameras stand beside the recorded ones, metres right, down, ahead; only with
            --teacher.
        scene: Key of the scene to search; by default the first held-out one.
        frame: Index of the frame; by default the middle one.
        out: Folder for the answer; by default one of its own below the home for every question.
        negatives: Texts that the text is compared with; by default the whole vocabulary.
        classes: Your own classes, a YAML file or the name of a shipped list: they are compared with, and their
            thresholds count.
    """

    text: Annotated[str, tyro.conf.Positional]
    teacher: bool = False
    part: str = ""
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scene: str | None = None
    frame: int | None = None
    out: Path | None = None
    negatives: tuple[str, ...] = ()
    classes: str | None = None

    def run(self, console: Console) -> int:
        """Render the answer and print its folder."""
        home = self.open_home(must_exist=True)
        selection = self.selection(home)
        classes = None if self.classes is None else load_class_list(self.classes)
        prompts, _ = asked(self.text, classes, negatives=self.negatives)  # what cannot be asked is said at once
        if self.part:
            part_prompts(self.part, prompts, classes, negatives=self.negatives)
        scene = self.scene or next(iter((*selection.validation_scenes, *selection.train_scenes)), None)
        if scene is None:
            raise ValueError("no scene to look in: give --scene")
        reader = SceneReader.open(home, scene)
        frame = reader.num_frames // 2 if self.frame is None else self.frame
        if not 0 <= frame < reader.num_frames:
            raise ValueError(f"frame {frame}, want 0 to {reader.num_frames - 1}")
        if any(self.shift) and not self.teacher:
            raise ValueError("--shift asks the scene's field: want --teacher with it")
        folder = self.out or self._folder(home, scene, frame, prompts.names[0], selection.variant, classes)
        if self.teacher:
            answer, frame_of_objects = self._ask_teacher(home, scene, frame, folder, selection.resolve(), classes)
        else:
            home.require("student_checkpoint", selection.variant)
            from student.applications.query import query_scene

            evaluation = selection.resolve().evaluation
            frame_of_objects = "ego"
            answer = query_scene(
                home,
                scene,
                frame,
                self.text,
                selection.variant,
                folder,
                part=self.part,
                negatives=self.negatives,
                classes=classes,
                template=evaluation.prompt_template,
                text_encoder=evaluation.text_encoder,
                device=evaluation.device,
            )
        self._tell(answer, frame_of_objects, console)
        return 0

    def _folder(self, home: Home, scene: str, frame: int, text: str, variant: str, classes: ClassList | None) -> Path:
        asked_of = ["teacher", *self.shift] if self.teacher else [variant]
        name = question_name(
            text, self.part, list(self.negatives), None if classes is None else classes.digest, asked_of
        )
        return home.root / "queries" / f"{scene}-{frame:04d}-{name}"

    def _ask_teacher(
        self, home: Home, scene: str, frame: int, folder: Path, config: PipelineConfig, classes: ClassList | None
    ) -> tuple[QueryAnswer, str]:
        from pipeline.field_query import ask_field

        return ask_field(
            home,
            scene,
            frame,
            self.text,
            folder,
            config,
            part=self.part,
            shift_m=self.shift,
            negatives=self.negatives,
            classes=classes,
        ), "world"

    def _tell(self, answer: QueryAnswer, frame: str, console: Console) -> None:
        """Print the best objects, and what to think of them."""
        record = answer.record
        if record["within"]:
            centre = ", ".join(f"{value:+.1f}" for value in record["within"][0]["centre_m"])
            console.print(f"looked for {escape(record['part'])} in the {escape(record['text'])} at {centre} m, {frame}")
        table = Table("object", "score, mean", "peak", f"centre x, y, z, m, {frame}", "length, width, height, m", "m³")
        for place, found in enumerate(answer.objects[:_NUM_SHOWN], start=1):
            centre = "  ".join(f"{value:+.1f}" for value in found.centre)
            extent = " x ".join(f"{value:.1f}" for value in found.extent)
            table.add_row(
                str(place), f"{found.mean_score:.3f}", f"{found.peak_score:.3f}", centre, extent, f"{found.volume:.1f}"
            )
        console.print(table)
        for caveat in record["caveats"]:
            console.print(f"[yellow]{escape(caveat)}")
        if record.get("threshold") is None:
            console.print(
                f"shown from {record['shown_from']:.3f} on, half the peak: no threshold was chosen for this text"
            )
        if record.get("most_probable_share") == 0:
            console.print("no pixel is nearer to this text than to everything it is compared with: take it with care")
        console.print(
            f"{len(answer.objects)} objects, the largest sum of scores first; {len(answer.heat_maps)} heat maps in "
            f"{escape(str(answer.folder))}",
            soft_wrap=True,
        )
