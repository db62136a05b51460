"""Outcomes of the calibration audit, kept beside the stores, so that a training set need not measure them again.

An outcome holds for one version of a scene and for the code that measured it.
"""

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

from storage.audits.finding import Finding
from storage.code import code_digest
from storage.digests import canonical_json
from storage.errors import ErrorKind, IntegrityError
from storage.stores.durable import make_folder, write_durably
from storage.stores.integrity import reading, writing
from storage.stores.versioned import Home, StoreVersion

FOLDER = "audits"
_MEASURED_BY = "storage.audits.stored_versions"
_NAMES = tuple(field.name for field in fields(Finding))


def keep(home: Home, version: StoreVersion, findings: list[Finding]) -> None:
    """Keep what an audit of a version found."""
    rows = [{name: _plain(getattr(finding, name)) for name in _NAMES} for finding in findings]
    path = _file(home, version)
    with writing(str(path)):
        make_folder(path.parent)
        write_durably(path, canonical_json(rows).encode())


def kept(home: Home, version: StoreVersion) -> list[Finding] | None:
    """Return what an audit of a version found, or None if this code has not measured it.

    Raises:
        IntegrityError: If what was kept is damaged.
    """
    path = _file(home, version)
    if not path.is_file():
        return None
    with reading(str(path)):
        stored: Any = json.loads(path.read_text())
    try:
        return [Finding(**{**row, **{n: _number(row[n]) for n in ("value", "threshold")}}) for row in stored]
    except (TypeError, KeyError) as error:
        raise IntegrityError(ErrorKind.STORE_CORRUPT, str(path), f"is no outcome of an audit: {error}") from error


def _file(home: Home, version: StoreVersion) -> Path:
    measured_by = code_digest(_MEASURED_BY)[:16]
    return home.root / FOLDER / version.kind / version.partition / f"{version.digest[:32]}-{measured_by}.json"


def _plain(value: float | str) -> float | str | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
