"""Where a version came from, and the one digest that decides whether it must be made again.

The digest covers what *determines* the content: the digests of all inputs, the configuration, the code, weights,
calibration and seed. What merely describes the run (packages, device, times) is recorded beside it.
"""

import dataclasses
import functools
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from storage.config_json import config_from_json
from storage.digests import canonical_json, digest_of
from storage.errors import ErrorKind, IntegrityError

_ALSO = " AND "


@dataclass(frozen=True, slots=True, order=True)
class InputVersion:
    """One version that another was made from."""

    kind: str
    partition: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Everything that made one stored version what it is.

    Attributes:
        kind: What it is, for example ``teacher_depth``.
        partition: Which one, usually a scene key.
        inputs: Versions it was computed from.
        config_digest: Of the owner's resolved configuration.
        code_digest: Of the code that computed it, as ``storage.code`` finds it.
        seed: Of every random choice, or None where there is none.
        weights_digests: SHA-256 of each weights file used, by name.
        sources: SHA-256 of each raw file read, by path relative to the source's root.
        calibration_digest: Of the intrinsics and camera poses used, empty where none were.
        pose_source: Where ego poses came from, empty where none were used.
        licence: Under which terms the content may be used.
        config: The resolved configuration itself, for people.
        packages: Versions of the packages that did the work.
        device: What it ran on.
        created_at: When, ISO 8601 UTC.
        wall_time_s: How long, seconds; filled in when the version is published.
    """

    kind: str
    partition: str
    inputs: tuple[InputVersion, ...] = ()
    config_digest: str = ""
    code_digest: str = ""
    seed: int | None = None
    weights_digests: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    calibration_digest: str = ""
    pose_source: str = ""
    licence: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    created_at: str = ""
    wall_time_s: float = 0.0

    @property
    def digest(self) -> str:
        """Return the SHA-256 over what determines the content; it is also Dagster's data version."""
        determining = {
            "kind": self.kind,
            "partition": self.partition,
            "inputs": sorted((i.kind, i.partition, i.digest) for i in self.inputs),
            "config_digest": self.config_digest,
            "code_digest": self.code_digest,
            "seed": self.seed,
            "weights_digests": dict(self.weights_digests),
            "sources": dict(self.sources),
            "calibration_digest": self.calibration_digest,
            "pose_source": self.pose_source,
            "licence": self.licence,
        }
        return digest_of(determining)

    def finished(self, wall_time_s: float) -> "Provenance":
        """Return the same provenance stamped with the time it took and the time it is now."""
        return dataclasses.replace(
            self, wall_time_s=wall_time_s, created_at=datetime.now(UTC).isoformat(timespec="seconds")
        )

    def to_json(self) -> str:
        """Write as canonical JSON."""
        return canonical_json(self)

    @classmethod
    def from_json(cls, text: str) -> "Provenance":
        """Read back what ``to_json`` wrote.

        Raises:
            IntegrityError: If it is no JSON, or a field is missing, unknown or of another type.
        """
        try:
            raw = json.loads(text)
        except json.JSONDecodeError as error:
            raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, "provenance", f"cannot be read: {error}") from error
        return config_from_json(cls, raw, "provenance")


def joined_licences(licences: Iterable[str]) -> str:
    """Return the terms of what was made from several things: those of each, once, sorted; empty where none states any.

    Terms are joined with ``AND``, which a licence that was itself joined is split at.
    """
    terms = {term for licence in licences for term in licence.split(_ALSO)}
    return _ALSO.join(sorted(terms - {""}))


def package_versions(*names: str) -> dict[str, str]:
    """Return the installed version of each named distribution; one that is absent is left out."""
    versions = {name: _installed_version(name) for name in names}
    return {name: version for name, version in versions.items() if version is not None}


@functools.cache
def _installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)  # parses the package's whole description
    except importlib.metadata.PackageNotFoundError:
        return None
