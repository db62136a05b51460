"""The origin of a version, and the one digest that decides whether it must be made again.

The digest covers what *determines* the content: the digests of all inputs, the configuration, the code, weights,
calibration and seed. Facts about the run (packages, device, times) are recorded beside it.
"""

import dataclasses
import functools
import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from storage.config_json import config_from_json
from storage.digests import canonical_json, digest_of
from storage.errors import ErrorKind, IntegrityError
from storage.plain_json import parse_json

_ALSO = " AND "


@dataclass(frozen=True, slots=True, order=True)
class InputVersion:
    """One version that another was made from."""

    kind: str
    partition: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Everything that determined one stored version, and a record of the run that made it.

    Attributes:
        kind: Kind of the version, for example ``teacher_depth``.
        partition: Its partition, usually a scene key.
        inputs: Versions it was computed from.
        config_digest: Digest of the resolved configuration of the stage.
        code_digest: Digest of the code that computed it, from ``storage.code``.
        seed: Seed of every random choice; None where there is none.
        weights_digests: SHA-256 of each weights file used, by name.
        sources: SHA-256 of each raw file read, by path relative to the source's root.
        calibration_digest: Digest of the intrinsics and camera poses used; empty where none were.
        pose_source: Origin of the ego poses; empty where none were used.
        licence: Terms under which the content may be used.
        config: The resolved configuration itself, for people.
        packages: Versions of the packages that did the work.
        device: Device that it ran on.
        created_at: Time of publication, ISO 8601 UTC.
        wall_time_s: Wall time of the build, seconds; filled in when the version is published.
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
        """Return a copy with the given wall time and the current time."""
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
            IntegrityError: If the text is not JSON, or a field is missing, unknown or of another type.
        """
        try:
            raw = parse_json(text)
        except ValueError as error:
            raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, "provenance", f"cannot be read: {error}") from error
        return config_from_json(cls, raw, "provenance")


def joined_licences(licences: Iterable[str]) -> str:
    """Return the combined terms of several inputs, each once, sorted; empty where none states any.

    Terms are joined with ``AND``; a licence that is itself joined is split there first. The model hub spells them in
    small letters, which makes no other licence.
    """
    terms = {term for licence in licences for term in licence.split(_ALSO) if term}
    once = {term.casefold(): term for term in sorted(terms, reverse=True)}  # of two spellings, the one in capitals
    return _ALSO.join(sorted(once.values()))


def package_versions(*names: str) -> dict[str, str]:
    """Return the installed version of each named distribution; a missing distribution is left out."""
    versions = {name: _installed_version(name) for name in names}
    return {name: version for name, version in versions.items() if version is not None}


@functools.cache
def _installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)  # parses the package's whole description
    except importlib.metadata.PackageNotFoundError:
        return None
