"""Words for classes and for queries: what a student is asked, as data.

Nothing here needs a model or torch, so that a configuration can name a prompt without loading one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.procedural.classes import CLASSES, NUM_OCC3D_CLASSES, SKY

DEFAULT_TEMPLATE = "a photo of a {}"

OCC3D_NAMES: tuple[str, ...] = (
    "others", "barrier", "bicycle", "bus", "car", "construction_vehicle", "motorcycle", "pedestrian", "traffic_cone",
    "trailer", "truck", "driveable_surface", "other_flat", "sidewalk", "terrain", "manmade", "vegetation",
)  # fmt: skip
"""Names of the Occ3D-nuScenes classes 0 to 16, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """Named classes and the words that stand for each.

    Attributes:
        names: One per class.
        words: The words of each class, at least one; a class scores as its best word.
        template: Sentence with one ``{}`` for the word.
    """

    names: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    template: str = DEFAULT_TEMPLATE

    def __post_init__(self) -> None:
        """Reject a set that cannot be scored."""
        if not self.names or len(self.names) != len(self.words) or not all(self.words):
            raise ValueError("a prompt set needs at least one class and at least one word for each")
        if self.template.count("{}") != 1:
            raise ValueError(f"a template needs exactly one '{{}}', got {self.template!r}")

    @property
    def prompts(self) -> tuple[str, ...]:
        """Every prompt, class after class."""
        return tuple(self.template.format(word) for words in self.words for word in words)

    @property
    def prompt_classes(self) -> tuple[int, ...]:
        """The class index of each prompt."""
        return tuple(index for index, words in enumerate(self.words) for _ in words)


def occ3d_prompts(*, with_sky: bool, template: str = DEFAULT_TEMPLATE) -> PromptSet:
    """Return the 17 Occ3D classes with the words of every finer class that belongs to them.

    Args:
        with_sky: Add the sky as the last class: for pixels. Voxels are never sky.
        template: Sentence with one ``{}``.
    """
    words: list[list[str]] = [[] for _ in range(NUM_OCC3D_CLASSES)]
    for entry in CLASSES:
        words[entry.occ3d_index].extend(entry.words)
    names = list(OCC3D_NAMES)
    if with_sky:
        names.append(SKY.name)
        words.append(list(SKY.words))
    return PromptSet(names=tuple(names), words=tuple(tuple(w) for w in words), template=template)


def query_prompts(text: str, *, template: str = DEFAULT_TEMPLATE, negatives: Sequence[str] = ()) -> PromptSet:
    """Return a two-sided set: the queried words first, and what they are told apart from.

    Without declared negatives these are the classes of the vocabulary that do not know the text as
    one of their own words: asking for "automobile" must not compete with "car".

    Args:
        text: The query, a word or a phrase.
        template: Sentence with one ``{}``.
        negatives: Words to tell it apart from.

    Raises:
        ValueError: If the text is blank, or one of the negatives.
    """
    query = " ".join(text.split())
    if not query:
        raise ValueError("a query needs at least one word")
    if negatives:
        if query.lower() in {word.lower() for word in negatives}:
            raise ValueError(f"the query {query!r} is among its own negatives")
        others = {word: (word,) for word in negatives}
    else:
        entries = [entry for entry in (*CLASSES, SKY) if query.lower() not in (entry.name, *entry.words)]
        if len(entries) < len(CLASSES) + 1:  # a known word: its whole Occ3D class is no negative
            own = {e.occ3d_index for e in (*CLASSES, SKY) if query.lower() in (e.name, *e.words)} - {0}
            entries = [entry for entry in entries if entry.occ3d_index not in own]
        others = {entry.name: entry.words for entry in entries}
    return PromptSet(names=(query, *others), words=((query,), *others.values()), template=template)
