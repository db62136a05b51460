"""Show a student's field in the browser: points, voxels by class or by a text, and the cameras."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, UInt8

from storage.geometry.rays import camera_rays, points_on_rays
from storage.geometry.resize import resize_nearest
from storage.geometry.transforms import rotation_to_quat_wxyz
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.keys import SceneKey
from storage.plain_markdown import plain_markdown
from storage.previews.pictures import UNDEFINED_COLOUR, colour_map, label_colour, resize_smoothly, to_uint8
from storage.stores.versioned import Home
from storage.taxonomy import SKY
from student.applications.deployment import DeployedStudent, FrameReading
from student.applications.weak_labels import choose_labels
from student.evaluation.frames import EvaluationFrames, view_images
from student.evaluation.operating_point import OperatingPoint
from student.inference.class_list import ClassList, asked
from student.inference.prompts import DEFAULT_TEMPLATE, occ3d_prompts
from student.inference.vocabulary import Vocabulary

if TYPE_CHECKING:
    import viser

Mode = Literal["points", "classes", "query"]
MODES: tuple[Mode, ...] = ("points", "classes", "query")

_THUMBNAIL_WIDTH = 160
_SHARES_OF_LEGEND = (0.0, 0.25, 0.5, 0.75, 1.0)
_EYE, _LOOKS_AT = (-14.0, 6.0, 9.0), (6.0, 0.0, 0.0)
"""Where a viewer begins, in the ego frame (metres): behind and above the vehicle, which fills little of the picture."""


class SceneView:
    """Content of the view of one scene, computed without a server; ``colours`` holds that of each class, by name.

    Args:
        student: Student whose field is shown.
        frames: Frames of the scene.
        template: Sentence with one ``{}`` for a word; a list of classes has its own.
        classes: Own classes in place of Occ3D's.
    """

    def __init__(
        self,
        student: DeployedStudent,
        frames: EvaluationFrames,
        *,
        template: str = DEFAULT_TEMPLATE,
        classes: ClassList | None = None,
    ) -> None:
        self.student, self.frames, self.template, self.classes = student, frames, template, classes
        prompts = occ3d_prompts(with_sky=False, template=template) if classes is None else classes.prompts
        self._vocabulary = Vocabulary.of(student.space, prompts)
        self.colours = _colours(prompts.names, classes)
        self._readings: dict[int, FrameReading] = {}

    def reading(self, frame: int) -> FrameReading:
        """Return the student's reading of a frame; the latest one is kept."""
        if frame not in self._readings:
            self._readings = {frame: self.student.read(self.frames, frame)}
        return self._readings[frame]

    def points(self, frame: int) -> tuple[Float[np.ndarray, "points 3"], UInt8[np.ndarray, "points 3"]]:
        """Return rendered surface points in the ego frame, metres, in the colours the cameras saw."""
        reading = self.reading(frame)
        cameras, depths = reading.batch.cameras, reading.views.termination_depth
        height, width = depths.shape[1:]
        positions, colours = [], []
        poses = cameras.camera_to_reference_ego[0].double().numpy()
        matrices = cameras.intrinsics[0].double().numpy()
        fisheye = [None] * len(poses) if cameras.fisheye is None else cameras.fisheye[0].double().numpy()
        images = view_images(reading.batch)
        for pose, intrinsics, lens, depth, image in zip(poses, matrices, fisheye, depths, images, strict=True):
            origins, directions = camera_rays(intrinsics, pose, height=height, width=width, fisheye=lens)
            is_hit = np.isfinite(depth)
            positions.append(points_on_rays(origins, directions, depth.astype(np.float64))[is_hit])
            colours.append(to_uint8(resize_nearest(image, height, width))[is_hit])
        return np.concatenate(positions), np.concatenate(colours)

    def voxels(
        self, frame: int, mode: Mode, text: str = ""
    ) -> tuple[Float[np.ndarray, "voxels 3"], UInt8[np.ndarray, "voxels 3"]]:
        """Return centres (ego frame, metres) and colours, by class or query, of the occupied, observed voxels.

        Raises:
            ValueError: If the mode shows no voxels, or a query has no words.
        """
        reading = self.reading(frame)
        held = np.flatnonzero(reading.voxels.is_occupied)
        features = self.student.clip_features(reading, held)
        if mode == "classes":
            probability = self._vocabulary.probability(features, self.student.point.temperature)
            solid = [i for i, name in enumerate(self._vocabulary.prompts.names) if name != SKY.name]
            thresholds = [None] * len(solid) if self.classes is None else [self.classes.thresholds[i] for i in solid]
            chosen, _ = choose_labels(np.nan_to_num(probability[:, solid]), solid, thresholds)
            colours = np.array(list(self.colours.values()), np.uint8)[chosen]
            colours[np.isnan(probability[:, 0])] = UNDEFINED_COLOUR
        elif mode == "query":
            prompts, _ = asked(text, self.classes, template=self.template)
            vocabulary = Vocabulary.of(self.student.space, prompts)
            probability = np.nan_to_num(vocabulary.probability(features, self.student.point.temperature)[:, 0])
            colours = colour_map("inferno")[np.round(255 * probability).astype(np.int64)]
        else:
            raise ValueError(f"mode {mode!r} shows no voxels; want one of {MODES[1:]}")
        return OCC3D_GRID.centres_of(held), colours


def serve_scene(
    home: Home,
    scene_key: SceneKey | str,
    variant: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    text_encoder: str = "",
    classes: ClassList | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> "viser.ViserServer":
    """Start a viewer of one scene and return its server; the caller keeps the process alive.

    Args:
        home: Home of the student and the scene.
        scene_key: Key of the scene, which need not be one of the training scenes.
        variant: Variant of a student that renders CLIP features.
        host: Address to listen at; only this machine by default.
        port: Port to listen at.
        text_encoder: Folder or hub id of the CLIP checkpoint; empty for the one recorded with the features.
        classes: Own classes in place of Occ3D's.
        device: Device of the student.

    Raises:
        MissingTargetError: If the student or a store of the scene is missing.
    """
    import viser  # a web server: only who looks pays for it

    student = DeployedStudent.open(home, variant, device=device, text_encoder=text_encoder)
    view = SceneView(student, student.frames(scene_key), classes=classes)
    server = viser.ViserServer(host=host, port=port, verbose=False)
    server.scene.set_up_direction("+z")
    server.initial_camera.position, server.initial_camera.look_at = _EYE, _LOOKS_AT
    frame = server.gui.add_slider("frame", min=0, max=view.frames.scene.frozen.num_frames - 1, step=1, initial_value=0)
    mode = server.gui.add_dropdown("show", MODES, initial_value="points")
    text = server.gui.add_text("query", "car")
    status = server.gui.add_markdown("")

    def draw(_: Any = None) -> None:  # noqa: ANN401 - viser's event
        status.content = f"the student reads frame {int(frame.value)} ..."
        try:
            drawn = draw_frame(server, view, int(frame.value), mode.value, text.value)
            colours = legend_of(view, mode.value, text.value, drawn)
            status.content = describe_view(str(scene_key), variant, student.point, colours)
        except ValueError as error:
            status.content = f"**{plain_markdown(str(error))}**"

    for control in (frame, mode, text):
        control.on_update(draw)
    draw()
    return server


def legend_of(
    view: SceneView, mode: Mode, text: str, drawn: UInt8[np.ndarray, "points 3"]
) -> Mapping[str, tuple[int, int, int]]:
    """Return the drawn colours of a view by what they mean: classes by name, or how probable a text is."""
    if mode == "classes":
        present = {tuple(colour) for colour in np.unique(drawn, axis=0).tolist()}
        return {name: colour for name, colour in view.colours.items() if colour in present}
    if mode == "points":
        return {}
    table = colour_map("inferno")
    return {f"{text}: {share:.0%}": tuple(table[round(255 * share)].tolist()) for share in _SHARES_OF_LEGEND}


def describe_view(
    scene_key: str, variant: str, point: OperatingPoint, colours: Mapping[str, tuple[int, int, int]]
) -> str:
    """Return what stands beside a view, as Markdown: scene, student, thresholds, and what each colour means."""
    thresholds = "each frame cut where it promises the largest IoU"
    if point.calibration is None:
        thresholds = f"occupied from {point.threshold:.3g}"
        if point.threshold_above_ground != point.threshold:
            thresholds += f" at the ground, from {point.threshold_above_ground:.3g} above it"
    title = f"{plain_markdown(scene_key)}, student {plain_markdown(variant)}, {thresholds}"
    return "\n\n".join([title, *(f"{_swatch(colour)} {plain_markdown(name)}" for name, colour in colours.items())])


def _swatch(colour: tuple[int, int, int]) -> str:
    return f'<span style="color: rgb{colour}">&#9632;</span>'


def _colours(names: Sequence[str], classes: ClassList | None) -> dict[str, tuple[int, int, int]]:
    """Return the colour of each class: Occ3D's own, and colours apart from each other for own classes."""
    if classes is None:
        return {name: label_colour(label) for label, name in enumerate(names)}
    table = colour_map("tab20")
    colours = {name: label_colour(label) for name, label in zip(names, classes.labels, strict=True)}
    for index, entry in enumerate(classes.classes):
        red, green, blue = table[256 * (index % 20) // 20 + 6].tolist()
        colours[entry.name] = red, green, blue
    return colours


def draw_frame(
    server: "viser.ViserServer", view: SceneView, frame: int, mode: Mode, text: str
) -> UInt8[np.ndarray, "points 3"]:
    """Draw one frame in place of the previous one, and return the colours of its points or voxels.

    Raises:
        ValueError: If a query has no words.
    """
    if mode == "points":
        positions, colours = view.points(frame)
        size = 0.06
    else:
        positions, colours = view.voxels(frame, mode, text)
        size = OCC3D_GRID.voxel_size * 0.95
    server.scene.add_point_cloud(
        "/field",
        positions.astype(np.float32),
        colours,
        point_size=size,
        point_shape="rounded" if mode == "points" else "square",
    )
    _draw_cameras(server, view, frame, view.frames.camera_names)
    return colours


def _draw_cameras(server: "viser.ViserServer", view: SceneView, frame: int, names: Sequence[str]) -> None:
    batch = view.reading(frame).batch
    cameras = batch.cameras
    poses = cameras.camera_to_reference_ego[0].double().numpy()
    matrices = cameras.intrinsics[0].double().numpy()
    for name, pose, intrinsics, image in zip(names, poses, matrices, view_images(batch), strict=True):
        height, width = cameras.render_height, cameras.render_width
        server.scene.add_camera_frustum(
            f"/cameras/{name}",
            fov=float(2 * np.arctan2(height / 2, intrinsics[1, 1])),
            aspect=width / height,
            scale=0.6,
            wxyz=rotation_to_quat_wxyz(pose[:3, :3]),
            position=pose[:3, 3],
            image=resize_smoothly(to_uint8(image), round(_THUMBNAIL_WIDTH * height / width), _THUMBNAIL_WIDTH),
        )
