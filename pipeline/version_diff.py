"""What differs between two versions of one kind: data, configuration, code, weights, gates and figures.

Two versions differ if their digests do. The reasons are their own (configuration, code, weights, seed, licence, raw
files), or lie in what they were made from. So both lineages are compared, and each reason is told once, with the kinds
and partitions in which it first appears.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from storage.kinds import KINDS
from storage.stores import catalog
from storage.stores.catalog import FILE_KINDS
from storage.stores.lineage import LineageNode
from storage.stores.provenance import InputVersion, Provenance
from storage.stores.versioned import Home, StoreVersion

Facet = Literal["data", "config", "code", "weights", "seed", "licence", "packages"]
"""Aspect in which two versions differ; packages are recorded and do not count for a digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One aspect in which some versions of a kind differ.

    Attributes:
        kind: Kind of these versions.
        facet: Aspect.
        name: Field, file or package.
        first: Value on the first side; None if it has none.
        second: Value on the second side; None if it has none.
        partitions: Partitions whose versions differ so; empty where the two sides may be of two variants.
    """

    kind: str
    facet: Facet
    name: str
    first: Any
    second: Any
    partitions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything in which two versions differ.

    Attributes:
        differences: Reasons, nearer kinds first; a version that differs only because its inputs do has none.
        only_first: Versions and files of the first lineage whose partition the second lacks.
        only_second: Versions and files of the second lineage whose partition the first lacks.
        changed: Number of partitions with different versions, by kind.
        gates: Value of each gate check on both sides, and whether it passed.
        figures: Value of each stored number on both sides, where they differ.
    """

    differences: tuple[Difference, ...]
    only_first: tuple[InputVersion, ...]
    only_second: tuple[InputVersion, ...]
    changed: Mapping[str, int]
    gates: Mapping[str, tuple[Any, Any]]
    figures: Mapping[str, tuple[Any, Any]]

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def compare(home: Home, first: StoreVersion, second: StoreVersion) -> Comparison:
    """Return what differs between two versions of one kind and between what they were made from.

    Raises:
        ValueError: If they are of different kinds.
        MissingTargetError: If the catalogue lists one of them not.
    """
    if first.kind != second.kind:
        raise ValueError(f"{first} and {second} are of different kinds: want two of one kind")
    before, after = (_by_partition(catalog.lineage(home.objects, version.as_input)) for version in (first, second))
    shared = [owner for owner in before if owner in after]
    changed = [owner for owner in shared if before[owner] != after[owner]]
    found: dict[tuple[str, Facet, str, str], tuple[Any, Any, list[str]]] = {}
    for owner in changed:
        kind, partition = owner
        if kind in FILE_KINDS:
            continue
        a, b = before[owner], after[owner]
        for facet, name, one, other in _own(_provenance(home, a), _provenance(home, b)):
            key = (kind, facet, name, repr((one, other)))
            found.setdefault(key, (one, other, []))[2].append(partition)
    differences = tuple(
        Difference(
            kind=kind, facet=facet, name=name, first=one, second=other, partitions=tuple(filter(None, partitions))
        )
        for (kind, facet, name, _), (one, other, partitions) in found.items()
    )
    metrics = home.metrics(first), home.metrics(second)
    return Comparison(
        differences=differences,
        only_first=tuple(before[owner] for owner in before if owner not in after),
        only_second=tuple(after[owner] for owner in after if owner not in before),
        changed=_count(kind for kind, _ in changed),
        gates=_pairs(*(_gates(of) for of in metrics)),
        figures={
            name: pair for name, pair in _pairs(*(dict(_numbers(of)) for of in metrics)).items() if pair[0] != pair[1]
        },
    )


def _by_partition(root: LineageNode) -> dict[tuple[str, str], InputVersion]:
    """Return every version and file of a lineage by kind and partition, nearer ones first.

    Variants are compared with each other, so that the partition of what is made for each variant is left empty.
    """
    found: dict[tuple[str, str], InputVersion] = {}
    for node in (pending := [root]):  # it grows
        kind, partition = node.version.kind, node.version.partition
        owner = (kind, "" if kind in KINDS and KINDS[kind].partitioned_by == "variant" else partition)
        if owner not in found:
            found[owner] = node.version
            pending += node.inputs
    return found


def _provenance(home: Home, version: InputVersion) -> Provenance:
    return home.provenance(home.require(version.kind, version.partition, version.digest))


def _own(first: Provenance, second: Provenance) -> Iterable[tuple[Facet, str, Any, Any]]:
    """Yield the aspects in which two provenances differ, other than by their inputs."""
    sides: dict[Facet, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
        "data": (_data(first), _data(second)),
        "config": (dict(_leaves(first.config)), dict(_leaves(second.config))),
        "code": ({"code": first.code_digest[:12]}, {"code": second.code_digest[:12]}),
        "weights": (first.weights_digests, second.weights_digests),
        "seed": ({"seed": first.seed}, {"seed": second.seed}),
        "licence": ({"licence": first.licence}, {"licence": second.licence}),
        "packages": (first.packages, second.packages),
    }
    for facet, (one, other) in sides.items():
        for name, (a, b) in _pairs(one, other).items():
            if a != b:
                yield facet, name, a, b


def _data(of: Provenance) -> dict[str, Any]:
    return {**of.sources, "calibration": of.calibration_digest, "poses": of.pose_source}


def _leaves(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:  # noqa: ANN401 - JSON
    if isinstance(value, Mapping) and (value or not prefix):
        for name, member in value.items():
            yield from _leaves(member, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, value


def _gates(metrics: Mapping[str, Any]) -> dict[str, Any]:
    checks: Mapping[str, Any] = (metrics.get("quality") or {}).get("checks", {})
    return {name: {"value": check["value"], "passed": check["passed"]} for name, check in checks.items()}


def _numbers(metrics: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    for name, value in _leaves({k: v for k, v in metrics.items() if k != "quality"}):
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value


def _pairs(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (first.get(name), second.get(name)) for name in dict.fromkeys([*first, *second])}


def _count(kinds: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for kind in kinds:
        counts[kind] = counts.get(kind, 0) + 1
    return counts
