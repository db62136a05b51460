"""Ask a scene's own field for something in words."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.feature_views import read_feature_views
from pipeline.presets import PipelineConfig
from storage.errors import ErrorKind, MissingTargetError
from storage.scenes.store import SceneReader
from storage.stores.versioned import Home
from student.applications.answers import QueryAnswer
from student.applications.field_query import query_field
from student.evaluation.caveats import caveats_of_words
from student.inference.class_list import ClassList
from student.inference.vocabulary import clip_features_in, clip_space_of_features
from teachers.nerf.feature_request import FeatureView


def ask_field(
    home: Home,
    scene_key: str,
    frame: int,
    text: str,
    out_dir: Path,
    config: PipelineConfig,
    *,
    part: str = "",
    shift_m: tuple[float, float, float] = (0.0, 0.0, 0.0),
    negatives: Sequence[str] = (),
    classes: ClassList | None = None,
) -> QueryAnswer:
    """Return what a scene's feature field says about a text: points of all frames, and heat maps of one.

    Args:
        home: Home of the scene.
        scene_key: The scene.
        frame: Frame of the heat maps.
        text: A word or a phrase.
        out_dir: Folder for the answer.
        config: Size of the views, prompts, and how they are rendered.
        part: A part of what the text names; empty to look for the text itself.
        shift_m: Where the cameras of the heat maps stand, in their own axes.
        negatives: Words that compete with the text.
        classes: Own classes, which compete in place of Occ3D's.

    Raises:
        MissingTargetError: If the scene has no feature field with CLIP in it.
    """
    scene = SceneReader.open(home, scene_key)
    cameras = range(scene.num_cameras)
    shown = [FeatureView.shifted(frame, c, shift_m) for c in cameras]
    others = [FeatureView.at(f, c) for f in range(scene.num_frames) for c in cameras]
    size, execution = config.teacher_features.size, config.feature_field.execution
    field, reading = read_feature_views(home, scene_key, [*shown, *others], size, execution)
    if "clip" not in reading.features:
        raise MissingTargetError(ErrorKind.TARGET_MISSING, str(field), "was taught no CLIP: words need it")
    features = clip_features_in(home, field)
    space = clip_space_of_features(home, features, text_encoder=config.evaluation.text_encoder)
    return query_field(
        space,
        reading.features["clip"],
        reading.points_world,
        reading.rgb,
        scene.camera_names,
        text,
        out_dir,
        part=part,
        negatives=negatives,
        classes=classes,
        template=config.evaluation.prompt_template,
        about={
            "scene": scene_key,
            "frame": frame,
            "shift_m": list(shift_m),
            "feature_field": field.digest,
            "caveats": list(caveats_of_words(home, [scene_key], space.weights_source)),
        },
    )
