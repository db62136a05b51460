"""Your own classes: names, prompts, synonyms, negatives and thresholds, read from a YAML file.

Labels of a list continue those of Occ3D: ids 0 to 16 are Occ3D's classes, which stay as background, 17 is free space,
and own classes start at 18. This module needs no torch.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from storage.digests import digest_of
from storage.errors import ErrorKind, SourceDataError
from storage.plain_yaml import PlainYamlLoader, parse_yaml
from storage.taxonomy import CLASSES, NUM_OCC3D_CLASSES, OCC3D_FREE, OCC3D_NAMES, SKY, SKY_ID
from student.inference.prompts import (
    DEFAULT_TEMPLATE,
    PromptSet,
    classes_without,
    ids_of_word,
    is_same,
    plain_words,
    query_prompts,
)

FIRST_OWN_LABEL = OCC3D_FREE + 1
SHIPPED = Path(__file__).parent / "class_lists"
DATA_FILES = ("class_lists/airside.yaml",)

_MAX_BYTES, _MAX_CLASSES = 1 << 18, 200
_TAKEN = ("others", "free", SKY.name)
_LIST_KEYS = ("name", "template", "classes", "thresholds_from")
_CLASS_KEYS = ("prompts", "synonyms", "negatives", "threshold", "occ3d", "truth")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnClass:
    """One class of a list.

    Attributes:
        name: Its name; by default its prompt too.
        prompts: What it may look like, a phrase each; it scores as its best one.
        synonyms: Other words for the first prompt. A query for one of them is a query for the class.
        negatives: Phrases that compete with it, for what it is mistaken for.
        threshold: Probability from which something is of this class; None where none was chosen.
        occ3d: The Occ3D class that it belongs to.
        truth: The classes of procedural worlds that are of this class.
    """

    name: str
    prompts: tuple[str, ...]
    synonyms: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    threshold: float | None = None
    occ3d: str = "others"
    truth: tuple[str, ...] = ()

    @property
    def concepts(self) -> tuple[tuple[str, ...], ...]:
        """Return its concepts, each one or more words that mean the same."""
        first, *others = self.prompts
        return (tuple(dict.fromkeys((first, *self.synonyms))), *((prompt,) for prompt in others))

    @property
    def words(self) -> tuple[str, ...]:
        """Return all words that name it or a part of it."""
        return tuple(dict.fromkeys((self.name, *self.prompts, *self.synonyms)))

    def is_called(self, text: str) -> bool:
        """Return whether a plain text names the class as a whole: its name, its only prompt, or a synonym."""
        names = (self.name, *self.synonyms, *(self.prompts if len(self.prompts) == 1 else ()))
        return any(text.lower() == name.lower() for name in names)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassList:
    """A list of own classes.

    Attributes:
        name: Name of the list.
        classes: The classes, in order.
        template: Sentence with one ``{}`` for a word.
        thresholds_from: What the thresholds were chosen with and on; empty where nobody recorded it.
    """

    name: str
    classes: tuple[OwnClass, ...]
    template: str = DEFAULT_TEMPLATE
    thresholds_from: Mapping[str, str] | None = None

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the content, comments and layout aside."""
        return digest_of(asdict(self))

    @property
    def label_names(self) -> dict[int, str]:
        """Return the name of every label, background included."""
        own = {FIRST_OWN_LABEL + index: entry.name for index, entry in enumerate(self.classes)}
        return {**dict(enumerate(OCC3D_NAMES)), OCC3D_FREE: "free", **own}

    @property
    def occ3d_labels(self) -> dict[int, int]:
        """Return the Occ3D class of every own label."""
        return {FIRST_OWN_LABEL + i: OCC3D_NAMES.index(entry.occ3d) for i, entry in enumerate(self.classes)}

    @property
    def prompts(self) -> PromptSet:
        """Return all that is told apart: background classes and the sky first, then the own classes.

        What a word of an own class names is no background any more. Negatives are concepts of "others".
        """
        owned = {i for entry in self.classes for word in (*entry.words, *entry.truth) for i in ids_of_word(word)}
        background = classes_without(owned)
        negatives = tuple((word,) for entry in self.classes for word in entry.negatives if not self.find(word))
        if negatives:
            background = {"others": (), **background}
            background["others"] += negatives
        return PromptSet(
            names=(*background, *(entry.name for entry in self.classes)),
            concepts=(*background.values(), *(entry.concepts for entry in self.classes)),
            template=self.template,
        )

    @property
    def labels(self) -> tuple[int, ...]:
        """Return the label of each class of ``prompts``."""
        background = [*OCC3D_NAMES, SKY.name]
        num_background = len(self.prompts.names) - len(self.classes)
        ids = [background.index(name) for name in self.prompts.names[:num_background]]
        own = range(FIRST_OWN_LABEL, FIRST_OWN_LABEL + len(self.classes))
        return (*(SKY_ID if i == NUM_OCC3D_CLASSES else i for i in ids), *own)

    @property
    def thresholds(self) -> tuple[float | None, ...]:
        """Return the threshold of each class of ``prompts``; None for the background."""
        own = tuple(entry.threshold for entry in self.classes)
        return (None,) * (len(self.prompts.names) - len(own)) + own

    def find(self, text: str) -> OwnClass | None:
        """Return the class that a plain text names; None if it names none."""
        return next((entry for entry in self.classes if entry.is_called(text)), None)

    def query(self, text: str) -> tuple[PromptSet, float | None]:
        """Return a prompt set whose first class is the queried text, and the threshold of the class that it names.

        A text that names a class stands for all of its prompts. Another text competes with the whole list, without
        the class that its last words name: "red car" is a car.

        Raises:
            ValueError: If the text is blank or no plain words.
        """
        text = plain_words(text)
        found, everything = self.find(text), self.prompts
        concepts = found.concepts if found else ((text,),)
        words = text.split()
        endings = (" ".join(words[start:]) for start in range(len(words)))
        named = next((ending for ending in endings if self.find(ending) or ids_of_word(ending)), text)
        called = self.find(named)
        rivals = {
            name: of_class
            for name, of_class in zip(everything.names, everything.concepts, strict=True)
            if not (called and name == called.name)
            and not any(is_same(named, w) or text.lower() == w.lower() for same in of_class for w in same)
        }
        return PromptSet(
            names=(found.name if found else text, *rivals),
            concepts=(concepts, *rivals.values()),
            template=self.template,
        ), (found.threshold if found else None)

    def with_thresholds(self, thresholds: Mapping[str, float | None], chosen: Mapping[str, str]) -> "ClassList":
        """Return the list with other thresholds by class name, and the record of what they were chosen with."""
        classes = tuple(replace(entry, threshold=thresholds.get(entry.name)) for entry in self.classes)
        return replace(self, classes=classes, thresholds_from=dict(chosen))

    def to_yaml(self) -> str:
        """Return the list as a file that :func:`load_class_list` reads."""
        classes = {entry.name: {key: _plain(getattr(entry, key)) for key in _CLASS_KEYS} for entry in self.classes}
        content = {"name": self.name, "template": self.template, "classes": classes}
        if self.thresholds_from is not None:
            content["thresholds_from"] = dict(self.thresholds_from)
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)


def asked(
    text: str, classes: ClassList | None, *, template: str = DEFAULT_TEMPLATE, negatives: tuple[str, ...] = ()
) -> tuple[PromptSet, float | None]:
    """Return the prompts of a query, with a list of classes or without, and the text's threshold if it has one.

    Raises:
        ValueError: If the text is blank or no plain words, or negatives are given in addition to a list.
    """
    if classes is None:
        return query_prompts(text, template=template, negatives=negatives), None
    if negatives:
        raise ValueError("negatives stand in the list of classes: want either of the two")
    return classes.query(text)


def part_prompts(
    part: str, whole: PromptSet, classes: ClassList | None, *, negatives: tuple[str, ...] = ()
) -> PromptSet:
    """Return the prompts of a part of something, with the whole among what competes.

    Args:
        part: The part.
        whole: Prompts of the whole, which stands first.
        classes: Own classes, or None.
        negatives: Words that compete in place of Occ3D's classes, where there is no list.

    Raises:
        ValueError: If the part is blank or no plain words, or names the same as the whole.
    """
    if classes is None:
        return query_prompts(part, template=whole.template, negatives=negatives, also=(whole.names[0],))
    prompts, _ = classes.query(part)
    if is_same(prompts.names[0], whole.names[0]):
        raise ValueError(f"the part {part!r} names the same as the whole: {whole.names[0]!r}")
    if whole.names[0] in prompts.names:
        return prompts
    return replace(prompts, names=(*prompts.names, whole.names[0]), concepts=(*prompts.concepts, whole.concepts[0]))


def load_class_list(source: str) -> ClassList:
    """Read a list of classes.

    Args:
        source: Path of a YAML file, or the name of a list that is shipped.

    Raises:
        SourceDataError: If there is no such list, or it is damaged or says what cannot be; the message names file,
            class and key.
    """
    path = Path(source)
    shipped = SHIPPED / f"{source}.yaml"
    if path.suffix not in (".yaml", ".yml") and shipped.is_file():
        path = shipped
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.yaml")))
        raise SourceDataError(
            ErrorKind.FILE_MISSING, source, f"is no file; want a .yaml file or a list that is shipped: {known}"
        )
    if path.stat().st_size > _MAX_BYTES:
        raise SourceDataError(ErrorKind.FILE_UNSAFE, source, f"has {path.stat().st_size} bytes, want {_MAX_BYTES}")
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), _ClassListLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise SourceDataError(ErrorKind.CLASSES_INVALID, source, f"is no plain YAML: {error}") from error
    return _ClassFile(source).read(content)


class _ClassListLoader(PlainYamlLoader):
    """Refuses a key that stands twice, too."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse a key that stands twice."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key is no single word", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


@dataclass(frozen=True, slots=True)
class _ClassFile:
    """Reader of one file's content, which names the place of every fault."""

    file: str

    def read(self, content: object) -> ClassList:
        """Return the list."""
        entries = self._mapping(content, "", _LIST_KEYS)
        name, template = self._text(entries, "name"), entries.get("template", DEFAULT_TEMPLATE)
        if not isinstance(template, str) or template.count("{}") != 1:
            raise self._error("template", f"is {template!r}, want a sentence with exactly one '{{}}'")
        found = entries.get("classes")
        if not isinstance(found, dict) or not 0 < len(found) <= _MAX_CLASSES:
            raise self._error("classes", f"want a mapping of 1 to {_MAX_CLASSES} class names")
        classes = tuple(self._class(key, value) for key, value in found.items())
        self._check_apart(classes)
        chosen = entries.get("thresholds_from")
        if chosen is not None:
            chosen = {str(k): str(v) for k, v in self._mapping(chosen, "thresholds_from", None).items()}
        return ClassList(name=name, classes=classes, template=template, thresholds_from=chosen)

    def _class(self, key: object, value: object) -> OwnClass:
        place = f"classes.{key}"
        if not isinstance(key, str):
            raise self._error(place, f"is called {key!r}, want words; quote what YAML reads as something else")
        name = self._words(key, place)
        entries = self._mapping({} if value is None else value, place, _CLASS_KEYS)
        prompts = self._phrases(entries, place, "prompts") or (name.replace("_", " "),)
        synonyms = self._phrases(entries, place, "synonyms")
        known = [i for word in dict.fromkeys((name, *prompts, *synonyms)) for i in ids_of_word(word)]
        by_id = {entry.class_id: entry for entry in (*CLASSES, SKY)}
        truth = self._known(entries, place, "truth", [entry.name for entry in (*CLASSES, SKY)])
        if truth is None:
            truth = tuple(dict.fromkeys(by_id[i].name for i in known))
        occ3d = entries.get("occ3d")
        if occ3d is None:
            parents = {OCC3D_NAMES[by_id[i].occ3d_index] for i in known if i != SKY_ID}
            occ3d = parents.pop() if len(parents) == 1 else "others"
        if occ3d not in OCC3D_NAMES:
            raise self._error(f"{place}.occ3d", f"is {occ3d!r}, want one of {', '.join(OCC3D_NAMES)}")
        threshold = entries.get("threshold")
        is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
        if threshold is not None and not (is_number and 0 < threshold < 1):
            raise self._error(f"{place}.threshold", f"is {threshold!r}, want a number in (0, 1)")
        return OwnClass(
            name=name,
            prompts=prompts,
            synonyms=synonyms,
            negatives=self._phrases(entries, place, "negatives"),
            threshold=None if threshold is None else float(threshold),
            occ3d=occ3d,
            truth=truth,
        )

    def _check_apart(self, classes: tuple[OwnClass, ...]) -> None:
        """Refuse a word that two classes claim, and a class that is its own negative."""
        owner: dict[str, str] = {}
        for entry in classes:
            if entry.name.lower() in _TAKEN:
                raise self._error(f"classes.{entry.name}", "is a name that labels need for something else")
            for word in entry.words:
                if owner.setdefault(word.lower(), entry.name) != entry.name:
                    message = f"claims {word!r}, which is also of class {owner[word.lower()]!r}"
                    raise self._error(f"classes.{entry.name}", message)
            for word in entry.negatives:
                if any(is_same(word, own) for own in entry.words):
                    raise self._error(
                        f"classes.{entry.name}.negatives", f"holds {word!r}, which names the class itself"
                    )

    def _mapping(self, value: object, place: str, keys: Iterable[str] | None) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._error(place, f"is {value!r}, want a mapping")
        unknown = [key for key in value if keys is not None and key not in keys]
        if unknown:
            raise self._error(f"{place}.{unknown[0]}".lstrip("."), f"is no key here, want {', '.join(keys or ())}")
        return value

    def _text(self, entries: Mapping[str, Any], key: str) -> str:
        if not isinstance(entries.get(key), str) or not entries[key].strip():
            raise self._error(key, f"is {entries.get(key)!r}, want a name")
        return entries[key].strip()

    def _phrases(self, entries: Mapping[str, Any], place: str, key: str) -> tuple[str, ...]:
        value = entries.get(key)
        value = [] if value is None else value
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise self._error(f"{place}.{key}", f"is {value!r}, want a list of phrases")
        return tuple(dict.fromkeys(self._words(word, f"{place}.{key}") for word in value))

    def _known(self, entries: Mapping[str, Any], place: str, key: str, known: Iterable[str]) -> tuple[str, ...] | None:
        value = entries.get(key)
        if value is None:
            return None
        wrong = value if not isinstance(value, list) else next((v for v in value if v not in known), None)
        if wrong is not None:
            raise self._error(f"{place}.{key}", f"names {wrong!r}, want a list of {', '.join(known)}")
        return tuple(value)

    def _words(self, text: str, place: str) -> str:
        try:
            return plain_words(text)
        except ValueError as error:
            raise self._error(place, str(error)) from error

    def _error(self, place: str, message: str) -> SourceDataError:
        return SourceDataError(ErrorKind.CLASSES_INVALID, f"{self.file}: {place}" if place else self.file, message)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
