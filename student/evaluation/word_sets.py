"""Further words by which pixels and points are asked for: your own classes, and words that were in no caption.

Each set names classes, and says which of them a true class of the procedural world or a category of a recording is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from storage.references.point_classes import occ3d_class
from storage.taxonomy import (
    CLASSES,
    NUM_OCC3D_CLASSES,
    OCC3D_NAMES,
    OCC3D_UNKNOWN,
    OCC3D_UNNAMED,
    SKY,
    SKY_ID,
    VOID_ID,
    class_named,
    occ3d_table,
)
from student.inference.class_list import ClassList
from student.inference.prompts import PromptSet
from student.inference.vocabulary import ClipSpace, Vocabulary

OWN_CLASSES, UNSEEN_WORDS = "own_classes", "unseen_words"

UNSEEN: dict[str, tuple[str, ...]] = {
    "barrier": ("roadblock", "bollard"),
    "bicycle": ("pushbike", "velocipede"),
    "bus": ("omnibus", "minibus"),
    "car": ("hatchback", "coupe"),
    "construction_vehicle": ("bulldozer", "backhoe"),
    "motorcycle": ("moped", "scooter"),
    "pedestrian": ("human", "passer-by"),
    "traffic_cone": ("pylon",),
    "trailer": ("caravan",),
    "truck": ("pickup", "juggernaut"),
    "driveable_surface": ("tarmac", "carriageway"),
    "sidewalk": ("walkway", "promenade"),
    "terrain": ("meadow", "turf"),
    "manmade": ("skyscraper", "apartments"),
    "vegetation": ("hedge", "shrubbery"),
    "sky": ("heaven", "firmament"),
}
"""Words for Occ3D's classes of which no captions of the shipped CLIP hold any. Two classes are no thing: no word says
"others" or "other flat" alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueNames:
    """Which class of a set something true is.

    Attributes:
        of_semantics: Index by class id of the procedural world; 254 where it is none of the set, 255 where unknown.
        of_category: Returns the index of a recording's category; 255 if it tells no class.
        sky: Index of the sky; 254 if the set has none.
    """

    of_semantics: UInt8[np.ndarray, " 256"]
    of_category: Callable[[str], int]
    sky: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WordSet:
    """Words that are scored in a section of their own.

    Attributes:
        name: Name of the section.
        title: Its title.
        note: What a reader must know.
        vocabulary: The classes and their words.
        truth: Which of them something is.
    """

    name: str
    title: str
    note: str
    vocabulary: Vocabulary
    truth: TrueNames


def occ3d_names() -> TrueNames:
    """Return the names of :func:`student.inference.vocabulary.occ3d_vocabulary`."""
    table = np.array(occ3d_table())
    table[SKY_ID] = NUM_OCC3D_CLASSES
    return TrueNames(of_semantics=table, of_category=occ3d_class, sky=NUM_OCC3D_CLASSES)


def unseen_words(space: ClipSpace, template: str) -> WordSet:
    """Return Occ3D's classes and the sky by words that no caption of the shipped CLIP holds."""
    prompts = PromptSet(names=tuple(UNSEEN), concepts=tuple((words,) for words in UNSEEN.values()), template=template)
    return WordSet(
        name=UNSEEN_WORDS,
        title="Text queries with words never trained on",
        note="Each class is asked for by words that no caption of the demo's CLIP holds; other sections ask by words "
        "that it was trained on.",
        vocabulary=Vocabulary.of(space, prompts),
        truth=unseen_names(),
    )


def unseen_names() -> TrueNames:
    """Return the names of :func:`unseen_words`."""
    classes = [*OCC3D_NAMES, SKY.name]
    index = np.full(256, OCC3D_UNNAMED, np.uint8)
    index[OCC3D_UNKNOWN] = OCC3D_UNKNOWN
    index[[classes.index(name) for name in UNSEEN]] = np.arange(len(UNSEEN))
    return TrueNames(
        of_semantics=index[occ3d_names().of_semantics],
        of_category=lambda name: int(index[occ3d_class(name)]),
        sky=list(UNSEEN).index(SKY.name),
    )


def own_classes(space: ClipSpace, classes: ClassList) -> WordSet:
    """Return a list of your own classes, with the background that competes with them."""
    return WordSet(
        name=OWN_CLASSES,
        title=f"Text queries for own classes: {classes.name}",
        note="Own classes compete with one another and with what is left of Occ3D's. On a recording, a category counts "
        "as an own class if it is called so, or if the class holds all of the Occ3D class that it names.",
        vocabulary=Vocabulary.of(space, classes.prompts),
        truth=own_names(classes),
    )


def own_names(classes: ClassList) -> TrueNames:
    """Return the names of :func:`own_classes`."""
    names = classes.prompts.names
    return TrueNames(
        of_semantics=_own_table(classes, names),
        of_category=_own_category(classes, names),
        sky=names.index(SKY.name) if SKY.name in names else OCC3D_UNNAMED,
    )


def _own_table(classes: ClassList, names: tuple[str, ...]) -> UInt8[np.ndarray, " 256"]:
    table = np.full(256, OCC3D_UNKNOWN, np.uint8)
    for entry in CLASSES:
        background = OCC3D_NAMES[entry.occ3d_index]
        table[entry.class_id] = names.index(background) if background in names else OCC3D_UNNAMED
    table[SKY_ID] = names.index(SKY.name) if SKY.name in names else OCC3D_UNNAMED
    table[VOID_ID] = OCC3D_UNKNOWN
    for own in classes.classes:
        for name in own.truth:
            table[class_named(name).class_id] = names.index(own.name)
    return table


def _own_category(classes: ClassList, names: tuple[str, ...]) -> Callable[[str], int]:
    """Return the index of a recording's category, by its own words or by the Occ3D class that it names."""
    table = _own_table(classes, names)

    def index_of(category: str) -> int:
        said = category.rpartition(".")[2].replace("_", " ")
        own = classes.find(said)
        if own is not None:
            return names.index(own.name)
        occ3d = occ3d_class(category)
        if occ3d == OCC3D_UNKNOWN:
            return OCC3D_UNKNOWN
        finer = {int(table[entry.class_id]) for entry in CLASSES if entry.occ3d_index == occ3d}
        return finer.pop() if len(finer) == 1 else OCC3D_UNNAMED

    return index_of
