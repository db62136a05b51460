"""Prompts of a student as data: words of classes and of queries.

This module needs no torch, so that a configuration can name a prompt cheaply.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.taxonomy import CLASSES, NUM_OCC3D_CLASSES, OCC3D_NAMES, SKY

DEFAULT_TEMPLATE = "a photo of a {}"

_ARTICLES = frozenset(("a", "an", "the"))
_MARKUP = frozenset("<>[]{}\\")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """Named classes, their concepts, and the synonyms of each concept.

    A class may be broad ("manmade": a building, a pole, a wall); it scores as its best concept. Words of
    one concept are synonyms; their embeddings are averaged, which evens out how often each is used.

    Attributes:
        names: Name of each class.
        concepts: The concepts of each class, each one or more synonyms.
        template: Sentence with one ``{}`` for a word.
    """

    names: tuple[str, ...]
    concepts: tuple[tuple[tuple[str, ...], ...], ...]
    template: str = DEFAULT_TEMPLATE

    def __post_init__(self) -> None:
        """Reject a set that cannot be scored."""
        if not self.names or len(self.names) != len(self.concepts):
            raise ValueError("a prompt set needs at least one class, and concepts for each")
        if not all(concepts and all(concepts) for concepts in self.concepts):
            raise ValueError("a class needs at least one concept, and a concept at least one word")
        if self.template.count("{}") != 1:
            raise ValueError(f"a template needs exactly one '{{}}', got {self.template!r}")

    @property
    def flat_concepts(self) -> tuple[tuple[str, ...], ...]:
        """Return the synonyms of every concept, class after class."""
        return tuple(words for concepts in self.concepts for words in concepts)

    @property
    def concept_classes(self) -> tuple[int, ...]:
        """Return the class index of every concept."""
        return tuple(index for index, concepts in enumerate(self.concepts) for _ in concepts)

    def sentence(self, word: str) -> str:
        """Return the prompt of a word."""
        return self.template.format(word)


def occ3d_prompts(*, with_sky: bool, template: str = DEFAULT_TEMPLATE) -> PromptSet:
    """Return the 17 Occ3D classes with the words of every finer class that belongs to them.

    Args:
        with_sky: Add the sky as the last class, for pixels. Voxels are never sky.
        template: Sentence with one ``{}``.
    """
    concepts: list[list[tuple[str, ...]]] = [[] for _ in range(NUM_OCC3D_CLASSES)]
    for entry in CLASSES:
        concepts[entry.occ3d_index].append(entry.words)
    names = list(OCC3D_NAMES)
    if with_sky:
        names.append(SKY.name)
        concepts.append([SKY.words])
    return PromptSet(names=tuple(names), concepts=tuple(tuple(c) for c in concepts), template=template)


def query_prompts(
    text: str, *, template: str = DEFAULT_TEMPLATE, negatives: Sequence[str] = (), also: Sequence[str] = ()
) -> PromptSet:
    """Return a set whose first class is the queried text, followed by its negatives.

    By default, the negatives are the Occ3D classes and the sky, except those that the text itself names: "car" is no
    negative of "automobile", of "a car" or of "red car", and "fuel truck" none of "truck". A finer word such as "pole"
    competes with the rest of its class.

    Args:
        text: The query, a word or a phrase; a leading article is left out.
        template: Sentence with one ``{}`` for the word.
        negatives: Words that compete with the text in place of the classes.
        also: Words that compete with it in addition.

    Raises:
        ValueError: If a text is blank or no plain words, or the query names the same as one of the given words.
    """
    query = plain_words(text)
    given = {word: plain_words(word) for word in (*negatives, *also)}
    for spelt, word in given.items():
        if is_same(query, word):
            raise ValueError(f"the query {query!r} is among its own negatives: {spelt!r} names the same")
    others = {plain_words(word): ((plain_words(word),),) for word in negatives} or classes_without(_named_by(query))
    others |= {plain_words(word): ((plain_words(word),),) for word in also}
    return PromptSet(names=(query, *others), concepts=(((query,),), *others.values()), template=template)


def plain_words(text: str) -> str:
    """Return a text with single spaces and without a leading article.

    Raises:
        ValueError: If no word is left, or it holds markup or something that cannot be printed.
    """
    words = text.split()
    odd = next((c for c in " ".join(words) if c in _MARKUP or not c.isprintable()), None)
    if odd is not None:
        raise ValueError(f"the text {text!r} holds {odd!r}: want plain words, without markup")
    if len(words) > 1 and words[0].lower() in _ARTICLES:
        words = words[1:]
    if not any(c.isalnum() for c in "".join(words)):
        raise ValueError(f"the text {text!r} holds no word: a query needs at least one word")
    return " ".join(words)


def is_same(text: str, other: str) -> bool:
    """Return whether two plain texts are equal, or name the same classes of the vocabulary."""
    named = ids_of_word(text)
    return text.lower() == other.lower() or (bool(named) and named == ids_of_word(other))


def _named_by(query: str) -> set[int]:
    """Return the classes that a query names by all of its words, or else by its last ones: "red car" is a car."""
    words = query.split()
    found = (set(ids_of_word(" ".join(words[start:]))) for start in range(len(words)))
    return next((ids for ids in found if ids), set())


def classes_without(class_ids: set[int]) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Return the concepts of each Occ3D class and of the sky, except some; an empty class is left out."""
    concepts: dict[str, list[tuple[str, ...]]] = {}
    for entry in (*CLASSES, SKY):
        name = SKY.name if entry is SKY else OCC3D_NAMES[entry.occ3d_index]
        if entry.class_id not in class_ids:
            concepts.setdefault(name, []).append(entry.words)
    return {name: tuple(of_class) for name, of_class in concepts.items()}


def ids_of_word(word: str) -> list[int]:
    """Return the class ids that a word names, in the singular or the plural; none for a word outside the vocabulary.

    A word of an Occ3D class itself names its finer classes too. "others" does not, because its finer classes differ.
    """
    entries = (*CLASSES, SKY)
    spellings = {word.lower(), *(word.lower().removesuffix(end) for end in ("s", "es"))}
    known = [entry for entry in entries if spellings & {entry.name, *entry.words}]
    coarse = {e.occ3d_index for e in known if e.class_id == e.occ3d_index and e.occ3d_index != 0}
    return [entry.class_id for entry in entries if entry in known or entry.occ3d_index in coarse]
