"""Ask an index of a home's images for a text or for the like of some pixels, and write the answer."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from storage.counted import counted
from storage.kinds import features_kind
from storage.stores.versioned import Home
from student.applications.contact_sheet import Asked, write_answers
from student.applications.find import ExampleQuestion, Hit, Question, Spot, TextQuestion, feature_at, find
from student.applications.region_index import RegionIndex
from student.evaluation.caveats import caveats_of_words
from student.inference.class_list import ClassList, asked
from student.inference.prompts import PromptSet
from student.inference.vocabulary import Vocabulary, clip_space_of_features

_FAINT = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is looked for, and how much of it.

    Attributes:
        prompts: The text and its negatives; None for examples.
        examples: Pixels whose like is looked for.
        number: Answers wanted.
        per_scene: Most of them in one scene.
        scenes: Keys of the scenes to look in; empty for all.
    """

    prompts: PromptSet | None
    examples: tuple[Spot, ...]
    number: int
    per_scene: int
    scenes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FindAnswer:
    """What was found.

    Attributes:
        hits: Answers, best first.
        page: The page that shows them.
        notes: What a reader has to know.
        seconds: How long the comparison took.
    """

    hits: tuple[Hit, ...]
    page: Path
    notes: tuple[str, ...]
    seconds: float


def ask(
    *,
    text: str,
    like: Sequence[str],
    negatives: Sequence[str],
    template: str,
    number: int,
    per_scene: int,
    scenes: Sequence[str],
    classes: ClassList | None = None,
) -> Request:
    """Return the request for a text, or for the like of some pixels.

    A text that names one of the own classes is looked for by all of its prompts, and competes with the whole list. The
    threshold of the class plays no part: it was chosen for what a student renders.

    Raises:
        ValueError: If the text is blank or one of its negatives, a pixel is not written as one, or negatives are given
            in addition to own classes.
    """
    return Request(
        prompts=None if like else asked(text, classes, template=template, negatives=tuple(negatives))[0],
        examples=tuple(map(Spot.parse, like)),
        number=number,
        per_scene=per_scene,
        scenes=tuple(scenes),
    )


def search(home: Home, index: RegionIndex, request: Request, folder: Path, *, text_encoder: str = "") -> FindAnswer:
    """Compare all regions of an index, and write the answer into a folder.

    Args:
        home: Home of the index.
        index: The index.
        request: What is looked for.
        folder: Where to write.
        text_encoder: Folder or hub id of the CLIP checkpoint; empty for the one recorded with the features.

    Raises:
        MissingTargetError: If the index lacks a scene, or the text encoder is not to be had.
        ProvenanceMismatchError: If the encoder differs from the one that made the features, or an example's features
            were reduced by another basis.
        ValueError: If an example is no pixel of its scene.
    """
    question, explanation, told = _question(home, index, request, text_encoder)
    began = time.perf_counter()
    hits = find(
        home,
        index,
        question,
        number=request.number,
        per_scene=request.per_scene,
        scenes=request.scenes,
        without=request.examples,
    )
    seconds = time.perf_counter() - began
    notes = list(_caveats(home, index, request.scenes))
    if index.left_out:
        notes.append(
            f"{counted(len(index.left_out), 'scene')} left out, because another basis reduced the features: "
            f"{', '.join(index.left_out[:8])}{' ...' if len(index.left_out) > 8 else ''}; extract them again"
        )
    if request.prompts is not None and hits and hits[0].score < _FAINT:
        notes.append(
            f"nothing answers well: even the best region is more likely something else ({hits[0].score:.2f} of 1)"
        )
    subject = f"“{request.prompts.names[0]}”" if request.prompts else "Like " + ", ".join(map(str, request.examples))
    asked = Asked(
        title=subject,
        explanation=explanation,
        question=told,
        examples=request.examples,
        per_scene=request.per_scene,
        notes=tuple(notes),
    )
    page = write_answers(home, index, hits, asked, folder)
    return FindAnswer(hits=tuple(hits), page=page, notes=tuple(notes), seconds=seconds)


def _caveats(home: Home, index: RegionIndex, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return what must stand beside answers that CLIP's features give."""
    if index.source != "clip" or not index.scenes:
        return ()
    first = index.scenes[0]
    features = home.open_arrays(home.require(features_kind("clip"), first.key, first.features))
    searched = [scene.key for scene in index.scenes if not wanted or scene.key in wanted]
    return caveats_of_words(home, searched, str(features.attrs["weights_source"]))


def _question(
    home: Home, index: RegionIndex, request: Request, text_encoder: str
) -> tuple[Question, str, dict[str, object]]:
    """Return the question, the meaning of its scores, and the question for programs."""
    if request.prompts is None:
        examples = np.stack([feature_at(home, index, spot) for spot in request.examples])
        explanation = (
            "Scores are cosines with the example, from the mean of all features: 1 is the same, 0 has nothing to do "
            "with it."
        )
        return ExampleQuestion.of(index.basis, examples), explanation, {"like": list(map(str, request.examples))}
    first = index.scenes[0]
    features = home.require(features_kind("clip"), first.key, first.features)
    space = clip_space_of_features(home, features, text_encoder=text_encoder)
    names = request.prompts.names
    question = TextQuestion(vocabulary=Vocabulary.of(space, request.prompts), temperature=space.encoder.temperature)
    explanation = (
        f"Scores are probabilities of the text against {', '.join(names[1:])}, at CLIP's own temperature "
        f"{space.encoder.temperature:.3g}. They rank; they are not calibrated."
    )
    return question, explanation, {"text": names[0], "negatives": list(names[1:]), "template": request.prompts.template}
