"""Render a scene along a path, as a student sees it and, beside it, as the scene's own field does: stills and a film.

A rendering that was interrupted goes on where it stopped: a step is done when its sheet is there.
"""

import json
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from pipeline.feature_views import iterate_views
from pipeline.file_names import slug
from pipeline.live import Student, recorded_moment
from pipeline.presets import PipelineConfig
from storage.digests import config_json, digest_of
from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from storage.geometry.rays import camera_rays
from storage.kinds import FeatureSource, Kind, features_kind
from storage.previews.pictures import FeatureColours, encode_image, from_uint8
from storage.previews.video import write_mp4
from storage.progress import ProgressCallback
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home, StoreVersion
from student.applications.camera_path import PathConfig, PathStep, camera_path
from student.applications.render_pictures import Product, Row, ShownView, sheet, tiles_of, word_title
from student.applications.rerun_log import RerunRecording, log_view
from student.evaluation.caveats import caveats_of_words
from student.evaluation.frames import select_views, shift_views
from student.inference.open_vocabulary import StoredFeatureBasis
from student.inference.prompts import query_prompts
from student.inference.vocabulary import Vocabulary, clip_features_in, clip_space_of_features
from student.model.types import TargetCameras
from student.model.voxel_field import VoxelField
from teachers.nerf.feature_request import FeatureReading, FeatureView

RECORD_FILE, FILM_FILE = "render.json", "film.mp4"
SHEETS_FOLDER, STILLS_FOLDER = "sheets", "stills"

_KEPT_FIELDS = 2
_STILL_FRAMES_PER_SECOND = 12.0
"""Speed of a film whose steps show one instant."""

Words = tuple[Mapping[str, Vocabulary], float]
"""Vocabulary of each text, and the temperature of its softmax."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderConfig:
    """What is rendered, and how it is shown.

    Attributes:
        path: Where the views are.
        cameras: Cameras of the rig, by index.
        products: What is shown of each view.
        texts: Texts whose probability is shown.
        negatives: Texts that compete with each of them; by default the whole vocabulary.
        feature_source: Foundation model whose features are shown.
        teacher: Show the scene's own field too.
        tile_width: Width of each tile of a sheet, pixels; stills keep the size that was rendered.
        frames_per_second: Speed of the film; 0 for that of the recording.
    """

    path: PathConfig
    cameras: tuple[int, ...]
    products: tuple[Product, ...]
    texts: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    feature_source: FeatureSource = "clip"
    teacher: bool = False
    tile_width: int = 320
    frames_per_second: float = 0.0

    def __post_init__(self) -> None:
        if not self.products:
            raise ValueError("nothing to show: want rgb, depth, features or words")
        if ("words" in self.products) != bool(self.texts):
            raise ValueError(
                f"show {self.products} of texts {self.texts}: want words with a text, and a text with words"
            )
        if len(set(self.texts)) != len(self.texts):
            raise ValueError(f"texts {self.texts}: want each once")
        if self.tile_width < 32 or self.frames_per_second < 0:
            raise ValueError(
                f"tile width {self.tile_width}, frames per second {self.frames_per_second}: want 32 or more, and 0 or "
                "more"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A finished rendering.

    Attributes:
        folder: Its folder.
        film: The film.
        num_steps: Steps of the path.
        num_made: Steps that this call rendered; the others were there.
        notes: What a reader of the pictures has to know.
    """

    folder: Path
    film: Path
    num_steps: int
    num_made: int
    notes: tuple[str, ...]


def render_scene(
    home: Home,
    student: Student,
    scene_key: str,
    config: RenderConfig,
    settings: PipelineConfig,
    out_dir: Path | None = None,
    *,
    replace_existing: bool = False,
    on_progress: ProgressCallback | None = None,
    on_view: "OnView | None" = None,
) -> Rendered:
    """Render every step of a path and write stills, sheets, a film and ``render.json``.

    Depths share one scale and probabilities another. Features of student and field share three colours where one basis
    reduced both; where it did not, each has its own, and the record says so.

    Args:
        home: Home of the scene.
        student: The student, which need not come from this home.
        scene_key: The scene; nothing but its ingested recording is read for the student.
        config: What is rendered.
        settings: How the field is rendered, and words of prompts.
        out_dir: Folder for the rendering; by default one of its own below the home.
        replace_existing: Throw away what the folder holds of another rendering.
        on_progress: Told after every step.
        on_view: Given every view of every step, also of those that are there already: they are rendered again.

    Raises:
        ValueError: If the path does not fit the scene, the folder holds something else, or a text is blank.
        MissingTargetError: If the scene, its field, or the features that are asked for do not exist.
        ProvenanceMismatchError: If the scene's features were distilled into another field than its current one.
    """
    scene = SceneReader.open(home, scene_key)
    steps = camera_path(scene, config.path, config.cameras)
    source = StudentSource(student, scene, config, settings.evaluation.prompt_template)
    field = TeacherSource(home, scene, student, config, settings) if config.teacher else None
    asked = _asked(scene, student, config, field, settings)
    folder = out_dir or home.root / "renders" / f"{scene_key}-{student.companions.variant}-{digest_of(asked)[:10]}"
    record = _begin(folder, asked, replace_existing=replace_existing)
    colours = _colours_of(record)
    missing = [index for index in range(len(steps)) if on_view is not None or not _sheet(folder, index).is_file()]
    if missing and "features" in config.products and not colours:
        reference = source.features_of(steps[0])
        colours = {"student": FeatureColours.fit(reference)}
        if field is not None and field.shares_basis:
            colours["teacher"] = colours["student"]
    pictured = field.views([steps[index] for index in missing]) if field is not None else None
    with nullcontext() if pictured is None else closing(pictured):
        for done, index in enumerate(missing):
            step = steps[index]
            shown = {"student": source.views(step)}
            if pictured is not None:
                shown = {"teacher": next(pictured), **shown}
            if "features" in config.products and "teacher" in shown and "teacher" not in colours:
                colours["teacher"] = FeatureColours.fit(_flat([v.features for v in shown["teacher"]]))
            if len(colours) > len(record.get("feature_colours", {})):
                record["feature_colours"] = {name: _spelt_colours(found) for name, found in colours.items()}
                _save(folder, record)
            _write_step(folder, index, step, scene, config, shown, colours, _title(scene_key, student, step, config))
            if on_view is not None:
                for name, views in shown.items():
                    on_view(name, index, step, views, colours.get(name))
            if on_progress is not None:
                on_progress("render", (done + 1) / len(missing), {"step": index + 1, "of": len(steps)})
    film = folder / FILM_FILE
    if missing or not film.is_file():
        pictures = (np.asarray(Image.open(_sheet(folder, i)).convert("RGB")) for i in range(len(steps)))
        write_mp4(film, pictures, frames_per_second=_speed(steps, config))
    notes = (*_caveats(home, scene_key, student, config), *(() if field is None else field.notes))
    _save(folder, {**record, "complete": True, "steps": [_spelt(step) for step in steps], "notes": list(notes)})
    return Rendered(folder=folder, film=film, num_steps=len(steps), num_made=len(missing), notes=notes)


def _caveats(home: Home, scene_key: str, student: Student, config: RenderConfig) -> tuple[str, ...]:
    """Return what must stand beside pictures that CLIP has a part in."""
    shows_clip = "words" in config.products or ("features" in config.products and config.feature_source == "clip")
    clip = student.companions.clip
    return caveats_of_words(home, [scene_key], clip.source) if shows_clip and clip is not None else ()


OnView = Callable[[str, int, PathStep, Sequence[ShownView], FeatureColours | None], None]
"""Function that is given what a source shows: its name, the step's index, the step, its views, colours of features."""


def into_rerun(recording: RerunRecording, scene: SceneReader, config: RenderConfig) -> OnView:
    """Return a function that writes all views into a Rerun recording."""

    def write(
        source: str, index: int, step: PathStep, views: Sequence[ShownView], colours: FeatureColours | None
    ) -> None:
        recording.at(index, step.time_s)
        for place, view in zip(step.views, views, strict=True):
            lens = scene.fisheye(place.camera)
            height, width = view.termination_depth.shape
            log_view(
                recording,
                f"world/{source}/{scene.camera_names[place.camera]}",
                scene.camera_to_world(place.frame, place.camera) @ place.virtual_to_camera,
                scene.intrinsics(place.camera, size=(height, width)),
                lens if np.isfinite(lens).all() else None,
                view.termination_depth,
                view.rgb,
                tiles_of(view, config.products, colours),
            )

    return write


class StudentSource:
    """Views of a path as a student renders them, each from the frame that stands for its instant.

    Args:
        student: The student.
        scene: The scene.
        config: What is rendered.
        template: Sentence with one ``{}`` for a text.

    Raises:
        MissingTargetError: If the student does not render the features, or has no words.
        ValueError: If a text is blank.
    """

    def __init__(self, student: Student, scene: SceneReader, config: RenderConfig, template: str) -> None:
        self._student, self._scene, self._config = student, scene, config
        self._lift = lru_cache(maxsize=_KEPT_FIELDS)(self._lift_frame)
        self._words: Words = ({}, 1.0)
        if "features" in config.products and config.feature_source not in student.predictor.feature_sources:
            known = ", ".join(student.predictor.feature_sources) or "none"
            raise MissingTargetError(
                ErrorKind.TARGET_MISSING,
                student.companions.variant,
                f"renders no {config.feature_source} features; it renders {known}",
            )
        if config.texts:
            self._words = (
                {
                    text: Vocabulary.of(
                        student.words, query_prompts(text, template=template, negatives=config.negatives)
                    )
                    for text in config.texts
                },
                student.companions.point.temperature,
            )

    def views(self, step: PathStep) -> list[ShownView]:
        """Return the views of one step."""
        field, rig = self._lift(step.frame)
        shown = []
        for view in step.views:
            camera = select_views(rig, slice(view.camera, view.camera + 1))
            if not view.is_recorded:
                camera = shift_views(camera, view.virtual_to_camera)
            shown.append(self._show(field, camera))
        return shown

    def features_of(self, step: PathStep) -> np.ndarray:
        """Return the features of all recorded cameras of a step's frame, one row for each pixel that is seen."""
        field, rig = self._lift(step.frame)
        views = self._student.predictor.render(field, rig)
        return views.features[self._config.feature_source][views.is_seen]

    def _lift_frame(self, frame: int) -> tuple[VoxelField, TargetCameras]:
        return self._student.lift(*recorded_moment(self._scene, frame))

    def _show(self, field: VoxelField, camera: TargetCameras) -> ShownView:
        views = self._student.predictor.render(field, camera)
        is_seen = views.is_seen[0]
        wanted = views.features.get(self._config.feature_source)
        return ShownView(
            rgb=None if views.image is None else views.image[0],
            termination_depth=views.termination_depth[0],
            features=None if wanted is None else np.where(is_seen[..., None], wanted[0], np.nan),
            heat=_heat(self._words, views.features.get("clip"), is_seen),
        )


class TeacherSource:
    """Views of a path as the scene's own field shows them.

    Args:
        home: Home of the field.
        scene: The scene.
        student: Student beside it, whose basis of features is compared.
        config: What is rendered.
        settings: How it is rendered, and words of prompts.

    Attributes:
        features: Feature field; None if no features and no words are asked for.
        shares_basis: Whether its features mean the same as the student's, to the bit.
        notes: What a reader of the pictures has to know.

    Raises:
        MissingTargetError: If the scene was not fitted, or its field was not taught the features.
    """

    def __init__(
        self, home: Home, scene: SceneReader, student: Student, config: RenderConfig, settings: PipelineConfig
    ) -> None:
        self._home, self._scene, self._config, self._settings = home, scene, config, settings
        assert scene.version is not None
        scene_key = self._scene_key = scene.version.partition
        self.version = home.require(Kind.NERF_TEACHER, scene_key)
        data = student.predictor.config.data
        self._size = (2 * data.render_height, 2 * data.render_width)  # of the student's own image
        self.features: StoreVersion | None = None
        self.shares_basis, self.notes, self._words = False, (), ({}, 1.0)
        if not {"features", "words"} & set(config.products):
            return
        self.features = home.require(Kind.FEATURE_FIELD, scene_key)
        source = config.feature_source
        if "features" in config.products:
            basis = _basis_of(home, self.features, source)
            self.shares_basis = student.has_basis(source, basis)
            if not self.shares_basis:
                self.notes = (f"{source} features of student and field were reduced by two bases: colours differ",)
        if config.texts:
            clip = clip_features_in(home, self.features)
            space = clip_space_of_features(home, clip, text_encoder=settings.evaluation.text_encoder)
            self._words = (
                {
                    text: Vocabulary.of(
                        space,
                        query_prompts(text, template=settings.evaluation.prompt_template, negatives=config.negatives),
                    )
                    for text in config.texts
                },
                space.encoder.temperature,
            )

    def views(self, steps: Sequence[PathStep]) -> Generator[list[ShownView], None, None]:
        """Yield the views of each step, rendered in nerfstudio's environment."""
        asked = [
            FeatureView.at(view.frame, view.camera, virtual_to_camera=view.virtual_to_camera)
            for step in steps
            for view in step.views
        ]
        readings = iterate_views(
            self._home,
            self._scene_key,
            asked,
            self._size,
            self._settings.feature_field.execution,
            self.features,
        )
        with closing(readings):
            for step in steps:
                yield [self._show(next(readings)) for _ in step.views]

    def _show(self, reading: FeatureReading) -> ShownView:
        is_seen = self._has_ray(int(reading.camera_index[0]))
        wanted = reading.features.get(self._config.feature_source)
        clip = reading.features.get("clip")
        return ShownView(
            rgb=from_uint8(reading.rgb[0]),
            termination_depth=reading.termination_depth[0],
            features=None if wanted is None else np.where(is_seen[..., None], wanted[0].astype(np.float32), np.nan),
            heat=_heat(self._words, None if clip is None else clip.astype(np.float32), is_seen),
        )

    def _has_ray(self, camera: int) -> Bool[np.ndarray, "height width"]:
        """Return which pixels lie inside a camera's image circle; all of a pinhole's do."""
        lens = self._scene.fisheye(camera)
        intrinsics = self._scene.intrinsics(camera, size=self._size)
        _, directions = camera_rays(
            intrinsics,
            np.eye(4),
            height=self._size[0],
            width=self._size[1],
            fisheye=lens if np.isfinite(lens).all() else None,
        )
        return np.isfinite(directions).all(axis=-1)


def _heat(words: Words, features: np.ndarray | None, is_seen: np.ndarray) -> dict[str, np.ndarray]:
    vocabularies, temperature = words
    if features is None:
        return {}
    return {
        text: np.where(is_seen, vocabulary.probability(features[0], temperature)[..., 0], np.nan)
        for text, vocabulary in vocabularies.items()
    }


def _basis_of(home: Home, feature_field: StoreVersion, source: FeatureSource) -> StoredFeatureBasis:
    """Return the basis of the features that a field was taught.

    Raises:
        MissingTargetError: If it was not taught any of that source.
    """
    kind = features_kind(source)
    for item in home.provenance(feature_field).inputs:
        if item.kind == kind:
            features = home.open_arrays(home.require(item.kind, item.partition, item.digest))
            basis = home.require(Kind.FEATURE_BASIS, source, str(features.attrs["feature_basis_digest"]))
            return StoredFeatureBasis.read(home.open_arrays(basis))
    raise MissingTargetError(ErrorKind.TARGET_MISSING, str(feature_field), f"was taught no {source} features")


def _flat(features: Sequence[np.ndarray | None]) -> np.ndarray:
    rows = np.concatenate([f.reshape(-1, f.shape[-1]) for f in features if f is not None])
    return rows[np.isfinite(rows).all(axis=-1)]


def _title(scene_key: str, student: Student, step: PathStep, config: RenderConfig) -> str:
    version = f"{student.companions.variant}@{student.companions.checkpoint[:8]}"
    return f"{scene_key}   frame {step.frame}   {step.time_s:.2f} s   student {version}   path {config.path.kind}"


def _speed(steps: Sequence[PathStep], config: RenderConfig) -> float:
    """Return how many steps follow each other in a second: as in the recording, unless told otherwise."""
    lasted = steps[-1].time_s - steps[0].time_s
    return config.frames_per_second or ((len(steps) - 1) / lasted if lasted > 0 else _STILL_FRAMES_PER_SECOND)


def _write_step(
    folder: Path,
    index: int,
    step: PathStep,
    scene: SceneReader,
    config: RenderConfig,
    shown: Mapping[str, Sequence[ShownView]],
    colours: Mapping[str, FeatureColours],
    title: str,
) -> None:
    """Write the stills of a step, and then its sheet."""
    names = {word_title(text): f"words-{place}-{slug(text)}" for place, text in enumerate(config.texts)}
    rows = []
    for place, view in enumerate(step.views):
        camera = scene.camera_names[view.camera]
        photo: UInt8[np.ndarray, "_ _ 3"] | None = scene.image(view.frame, view.camera)
        for source, views in shown.items():
            tiles = tiles_of(views[place], config.products, colours.get(source))
            for column, picture in tiles.items():
                still = f"{index:05d}-{camera}-{source}-{names.get(column, column)}.png"
                (folder / STILLS_FOLDER / still).write_bytes(encode_image(picture, quality=None))
            rows.append(Row(camera=camera, source=source, photo=photo, tiles=tiles))
            photo = None  # once for each camera
    recorded = "recorded" if step.views[0].is_recorded else f"recorded, frame {step.frame}"
    path = _sheet(folder, index)
    aside = path.with_name(f".{path.name}")
    aside.write_bytes(encode_image(sheet(title, recorded, rows, tile_width=config.tile_width), quality=None))
    aside.replace(path)


def _sheet(folder: Path, index: int) -> Path:
    return folder / SHEETS_FOLDER / f"{index:05d}.png"


def _asked(
    scene: SceneReader, student: Student, config: RenderConfig, field: TeacherSource | None, settings: PipelineConfig
) -> dict[str, Any]:
    """Return everything that decides what the pictures show."""
    assert scene.version is not None
    versions = [] if field is None else [v.digest for v in (field.version, field.features) if v is not None]
    return {
        "scene": {"key": scene.version.partition, "digest": scene.version.digest},
        "student": {"variant": student.companions.variant, "checkpoint": student.companions.checkpoint},
        "field": versions,
        "template": settings.evaluation.prompt_template,
        "temperature": student.companions.point.temperature,
        **config_json(config),
    }


def _begin(folder: Path, asked: Mapping[str, Any], *, replace_existing: bool) -> dict[str, Any]:
    """Return the record of a rendering: of the one that the folder holds, if it is the same, else of a new one.

    Raises:
        ValueError: If the folder holds another rendering that is to be kept, or something else.
        IntegrityError: If its record is damaged.
    """
    path = folder / RECORD_FILE
    if path.is_file():
        try:
            record = json.loads(path.read_text())
            same = record["asked"] == asked
        except (ValueError, KeyError, TypeError) as error:
            message = f"is no record of a rendering: {error}"
            raise IntegrityError(ErrorKind.STORE_CORRUPT, str(path), message) from error
        if same and not replace_existing:
            return record
        if not replace_existing:
            other = ", ".join(sorted(name for name in asked if record["asked"].get(name) != asked[name]))
            raise ValueError(f"{folder} holds another rendering ({other} differ): want another --out, or --overwrite")
        for name in (SHEETS_FOLDER, STILLS_FOLDER):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / FILM_FILE).unlink(missing_ok=True)
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds something else than a rendering: want another --out")
    for name in (SHEETS_FOLDER, STILLS_FOLDER):
        (folder / name).mkdir(parents=True, exist_ok=True)
    record = {"asked": dict(asked)}
    _save(folder, record)
    return record


def _save(folder: Path, record: Mapping[str, Any]) -> None:
    aside = folder / f".{RECORD_FILE}"
    aside.write_text(json.dumps(record, indent=1) + "\n")
    aside.replace(folder / RECORD_FILE)


def _colours_of(record: Mapping[str, Any]) -> dict[str, FeatureColours]:
    return {
        name: FeatureColours(**{field: np.array(values) for field, values in stored.items()})
        for name, stored in record.get("feature_colours", {}).items()
    }


def _spelt_colours(colours: FeatureColours) -> dict[str, Any]:
    return {field: values.tolist() for field, values in asdict(colours).items()}


def _spelt(step: PathStep) -> dict[str, Any]:
    views = [
        {"camera": view.camera, "is_recorded": view.is_recorded, "virtual_to_camera": view.virtual_to_camera.tolist()}
        for view in step.views
    ]
    return {"time_s": step.time_s, "frame": step.frame, "views": views}
