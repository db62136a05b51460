"""``distillnerf export``: write labels and occupancy in the formats of other projects."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.markup import escape

from pipeline.commands.options import CommandGroup, ConfiguredCommand
from pipeline.display import Display
from pipeline.run_config import HomeSelection
from storage.keys import SceneKey
from storage.progress import ProgressCallback
from storage.stores.versioned import Home, StoreVersion

OccupancySource = Literal["occupancy_labels", "lidar_occupancy", "student"]
LabelFormat = Literal["occ3d", "coco", "ply"]


@dataclass(frozen=True, kw_only=True)
class ExportLabels(ConfiguredCommand):
    """Write the labels that a student gives a scene, labelling it first if needed.

    Prompts, checkpoint, temperature and thresholds are written beside them.

    Attributes:
        scene: Key of the scene.
        out: Folder to write to.
        format: Formats: Occ3D's npz files, COCO panoptic, or a point cloud for each frame.
        classes: Your own classes, a YAML file or the name of a shipped list; by default those of the configuration.
    """

    scene: Annotated[str, tyro.conf.Positional]
    out: Path
    format: tuple[LabelFormat, ...] = ("occ3d", "coco", "ply")
    classes: str | None = None

    def run(self, console: Console) -> int:
        """Label the scene and write the formats."""
        if not self.format:
            raise ValueError("no format: want one or more of occ3d, coco, ply")
        home = self.open_home(must_exist=True)
        selection = self.selection(home)
        with _telling(console, f"labels of {self.scene}") as tell:
            version = label_scene(home, selection, self.scene, self.classes, tell)
            from student.applications.export_labels import export_coco_panoptic, export_point_clouds
            from student.applications.export_occupancy import export_occupancy

            written = []
            if "occ3d" in self.format:
                written.append(export_occupancy(home, version, self.out, on_progress=tell).folder)
            if "coco" in self.format:
                written.append(export_coco_panoptic(home, version, self.out, on_progress=tell))
            if "ply" in self.format:
                written.append(export_point_clouds(home, version, self.out, on_progress=tell))
        console.print(f"{escape(str(version))}", soft_wrap=True)
        for path in written:
            console.print(escape(str(path)), soft_wrap=True)
        return 0


@dataclass(frozen=True, kw_only=True)
class ExportOccupancy(ConfiguredCommand):
    """Write the occupancy of a scene in Occ3D's layout, gts/<scene>/<token>/labels.npz.

    Attributes:
        scene: Key of the scene.
        out: Root of the layout.
        source: Where the occupancy comes from: labels beside a recording, LiDAR, or the calibrated student.
        format: The layout.
    """

    scene: Annotated[str, tyro.conf.Positional]
    out: Path
    source: Annotated[OccupancySource, tyro.conf.arg(name="from")] = "occupancy_labels"
    format: Literal["occ3d"] = "occ3d"

    def run(self, console: Console) -> int:
        """Write the files."""
        home = self.open_home(must_exist=True)
        with _telling(console, f"occupancy of {self.scene}") as tell:
            if self.source == "student":
                version = label_scene(home, self.selection(home), self.scene, "", tell)
            else:
                version = home.require(self.source, self.scene)
            from student.applications.export_occupancy import export_occupancy

            made = export_occupancy(home, version, self.out, on_progress=tell)
        console.print(
            f"{made.num_frames} frames in {escape(str(made.folder))}, {made.unlabelled_frames} without labels, "
            f"{made.unnamed_frames} without a token; {made.unknown_voxels} unknown voxels are outside both masks, "
            f"{made.unnamed_voxels} are of no known class and written as others",
            soft_wrap=True,
        )
        return 0


def label_scene(
    home: Home, selection: HomeSelection, scene: str, classes: str | None, tell: ProgressCallback | None = None
) -> StoreVersion:
    """Return a student's labels of a scene, making them if they do not exist.

    Args:
        home: Home of the student and the scene.
        selection: Selection that names the student and the configuration of labels.
        scene: Key of the scene.
        classes: Own classes; empty for Occ3D's, None for those of the configuration.
        tell: Called with the progress.
    """
    home.require("student_checkpoint", selection.variant)
    home.require("scene", scene)
    from student.applications.weak_labels import export_weak_labels

    config = selection.resolve().weak_labels
    config = config if classes is None else replace(config, classes=classes)
    return export_weak_labels(home, SceneKey.parse(scene), selection.variant, config, tell).version


@contextmanager
def _telling(console: Console, task: str) -> Iterator[ProgressCallback]:
    """Show the progress of one task."""
    with Display(console, total=1) as display:
        display.begin(task)

        def tell(stage: str, fraction: float, figures: Mapping[str, Any]) -> None:
            display.advance(task, {"asset": stage, "fraction": fraction, "figures": figures})

        yield tell
        display.finish(task, succeeded=True, note="written")


_Action = (
    Annotated[ExportLabels, tyro.conf.subcommand(name="labels")]
    | Annotated[ExportOccupancy, tyro.conf.subcommand(name="occupancy")]
)


@dataclass(frozen=True, kw_only=True)
class ExportCommand(CommandGroup[_Action]):
    """Write labels or occupancy in the formats of other projects."""
