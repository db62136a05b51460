"""Trace one version back to everything it was made from, by the provenance in the stores."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from storage.stores.gate_record import GateRecord
from storage.stores.lineage import walk
from storage.stores.provenance import InputVersion, Provenance
from storage.stores.versioned import Home


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageVersion:
    """One ancestor of a version.

    Attributes:
        version: Version of the ancestor.
        is_present: False if this home no longer holds it; then only its version is known.
        seed: Seed of its random choices.
        licence: Terms of its content.
        wall_time_s: Time that it took to make, seconds.
    """

    version: InputVersion
    is_present: bool
    seed: int | None = None
    licence: str = ""
    wall_time_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One quality check of one ancestor.

    Attributes:
        kind: Kind of the store.
        partition: Partition of the store.
        check: Name of the check.
        value: Measured value.
        threshold: Threshold of the check.
        side: Side of it that passes, "≥" or "≤"; empty where the outcome does not tell.
        passed: True if the check passed.
        undecided: Why nothing could decide it; empty if something did.
        where: Place of the worst value.
    """

    kind: str
    partition: str
    check: str
    value: float | int | None
    threshold: float | int | None
    passed: bool
    side: str = ""
    undecided: str = ""
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestry:
    """All ancestors of one version, nearest first, the version itself included.

    Attributes:
        nodes: Every version, once.
        gates: Every check of every ancestor, failed ones first.
        raw_files: SHA-256 of every raw file, by ``partition/path``.
        weights: SHA-256 of every weights file, by name.
        packages: Version of every package that made an ancestor.
    """

    nodes: tuple[LineageVersion, ...]
    gates: tuple[Gate, ...]
    raw_files: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)

    @property
    def licences(self) -> tuple[str, ...]:
        """Return every licence that some ancestor carries, sorted."""
        return tuple(sorted({node.licence for node in self.nodes if node.licence}))


def trace_lineage(home: Home, start: InputVersion) -> Ancestry:
    """Collect the ancestors of a version, breadth first.

    An ancestor that this home no longer holds is listed as absent.
    """
    nodes: list[LineageVersion] = []
    gates: list[Gate] = []
    raw_files: dict[str, str] = {}
    weights: dict[str, str] = {}
    packages: dict[str, str] = {}
    stored: dict[InputVersion, Provenance] = {}
    for _, item in walk([start], lambda item: stored[item].inputs if item in stored else ()):
        found = home.find(item.kind, item.partition, item.digest)
        if found is None:
            nodes.append(LineageVersion(version=item, is_present=False))
            continue
        provenance = stored[item] = home.provenance(found)
        nodes.append(
            LineageVersion(
                version=item,
                is_present=True,
                seed=provenance.seed,
                licence=provenance.licence,
                wall_time_s=provenance.wall_time_s,
            )
        )
        gates += _gates(item, home.gate(found))
        raw_files |= {f"{item.partition}/{path}": digest for path, digest in provenance.sources.items()}
        weights |= dict(provenance.weights_digests)
        packages = {**provenance.packages, **packages}
    gates.sort(key=lambda gate: gate.passed)
    return Ancestry(nodes=tuple(nodes), gates=tuple(gates), raw_files=raw_files, weights=weights, packages=packages)


def _gates(item: InputVersion, record: GateRecord | None) -> list[Gate]:
    checks = () if record is None else record.checks
    return [
        Gate(
            kind=item.kind,
            partition=item.partition,
            check=check.name,
            value=None if math.isnan(check.value) else check.value,
            threshold=None if math.isnan(check.threshold) else check.threshold,
            passed=check.passed,
            side=check.side,
            undecided=check.undecided,
            where=check.where,
        )
        for check in sorted(checks, key=lambda check: check.name)
    ]
