"""What a reader must know before believing a figure: closed vocabularies, labelled teachers, bounded probabilities."""

from collections.abc import Iterable, Mapping

import numpy as np

from storage.kinds import Kind, features_kind
from storage.stores.versioned import Home
from student.data.training_set import FrozenScene
from student.evaluation.evidence import StudentEvidence
from student.inference.vocabulary import DEMO_SOURCE, clip_features_in

CLOSED_VOCABULARY = (
    "The demo CLIP was trained on captions that name these very classes: the vocabulary is closed, and what it "
    "tells is learned from labels, not zero-shot. Words that are new to it are scored apart, as unseen_words."
)
WORDS_OF_RENDERS = (
    "The demo CLIP learned its words on rendered worlds alone; of photographs its encoder knows ImageNet. In a "
    "recording it finds cars and trucks, and hardly anything smaller or rarer. Published weights know more "
    "(image_teachers.clip_basis.extractor.weights)."
)
_LABELLED_DINOV2 = (
    "The demo DINOv2 was trained with class labels of rendered worlds: features that imitate it are not free of labels."
)
_UNCERTAIN_BELOW = 0.9


def sources_of_features(home: Home, scene: FrozenScene) -> dict[str, str]:
    """Return where the weights behind a scene's stored features came from, by feature source.

    Those of a source that the scene does not hold, or whose record does not say, are left out.
    """
    found: dict[str, str] = {}
    for source in ("clip", "dinov2"):
        version = scene.stores.get(features_kind(source))
        if version is None and source == "clip" and Kind.TEACHER_FEATURES in scene.stores:
            version = clip_features_in(home, scene.stores[Kind.TEACHER_FEATURES])
        weights = {} if version is None else home.provenance(version).config.get("weights", {})
        if "source" in weights:
            found[source] = str(weights["source"])
    return found


def caveats_of_words(home: Home, scene_keys: Iterable[str], weights_source: str) -> tuple[str, ...]:
    """Return what must stand beside an answer to words that were asked of scenes.

    Args:
        home: Home of the scenes.
        scene_keys: The scenes; one is a recording if it has no procedural truth.
        weights_source: Source of the CLIP weights behind the answer; empty if there were none.
    """
    if weights_source != DEMO_SOURCE:
        return ()
    is_recording = any(home.latest(Kind.SCENE_TRUTH, key) is None for key in scene_keys)
    return (WORDS_OF_RENDERS,) if is_recording else ()


def caveats(learned_from: Mapping[str, str], evidence: StudentEvidence) -> tuple[str, ...]:
    """Return the sentences that belong beside every figure of a student.

    Args:
        learned_from: Where the weights behind its features came from, by source; see :func:`sources_of_features`.
        evidence: What its own training frames say.
    """
    notes = []
    if learned_from.get("clip") == DEMO_SOURCE:
        notes.append(CLOSED_VOCABULARY)
    if learned_from.get("dinov2") == DEMO_SOURCE:
        notes.append(_LABELLED_DINOV2)
    if evidence.occupancy is not None:
        most = float(evidence.occupancy.calibration.apply(np.array([1.0]))[0])
        if most < _UNCERTAIN_BELOW:
            notes.append(
                f"The calibrated probability of occupancy never exceeds {most:.2f}: of the training voxels where the "
                f"student's density was highest, {most:.0%} were occupied, so no higher figure would be honest."
            )
    return tuple(notes)
