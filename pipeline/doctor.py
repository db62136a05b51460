"""Check this machine for everything that the pipeline needs, with a fix for each fault."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import psutil

from pipeline.environments import installed_version, project_root
from pipeline.resources import nerfstudio_from_environment
from storage.errors import EnvironmentMissingError

State = Literal["good", "absent", "bad"]
"""State of an item; an ``absent`` one is optional."""

_GIB = 2**30
_MIN_DISK_GIB, _MIN_MEMORY_GIB = 10, 8
_PACKAGES = ("dagster", "torch", "transformers", "zarr", "icechunk", "trimesh", "embreex", "nuscenes-devkit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """One item that was examined.

    Attributes:
        name: Name of the item.
        state: Good, absent (optional), or bad.
        found: Description of the finding.
        fix: Remedy; empty if none is needed.
    """

    name: str
    state: State
    found: str
    fix: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def examine(home: Path | None = None) -> list[Diagnosis]:
    """Examine everything, and return the findings.

    Args:
        home: Home whose disk is examined; by default the disk of the working directory.
    """
    looks: list[Callable[[], Iterator[Diagnosis]]] = [
        _python,
        _packages,
        _accelerator,
        _nerfstudio,
        _demo_weights,
        lambda: _disk(home or Path.cwd()),
        _memory,
    ]
    return [diagnosis for look in looks for diagnosis in look()]


def _python() -> Iterator[Diagnosis]:
    supported = (3, 11) <= sys.version_info[:2] < (3, 13)
    found = f"{sys.version.split()[0]} at {sys.executable}"
    yield Diagnosis(
        name="python",
        state="good" if supported else "bad",
        found=found,
        fix="" if supported else "install Python 3.11, then 'make environments'",
    )


def _packages() -> Iterator[Diagnosis]:
    for name in _PACKAGES:
        try:
            yield Diagnosis(name=name, state="good", found=version(name))
        except PackageNotFoundError:
            yield Diagnosis(name=name, state="bad", found="not installed", fix="make environments")


def _accelerator() -> Iterator[Diagnosis]:
    # In a process of its own: importing torch takes seconds and memory, and a broken driver may end the process.
    question = "import torch as t; n = t.cuda.device_count(); print(n, t.cuda.get_device_name(0) if n else '')"
    answer = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=False, timeout=120)
    if answer.returncode != 0:
        reason = (answer.stderr.strip().splitlines() or ["no output"])[-1]
        yield Diagnosis(name="torch", state="bad", found=f"cannot be imported: {reason}", fix="make environments")
        return
    count, _, device = answer.stdout.strip().partition(" ")
    if count == "0":
        found = f"none; {os.cpu_count()} CPU cores do the work"
        yield Diagnosis(name="accelerator", state="absent", found=found, fix="presets 'demo' and 'tiny' need none")
    else:
        yield Diagnosis(name="accelerator", state="good", found=f"{count} x {device}")


def _nerfstudio() -> Iterator[Diagnosis]:
    try:
        python = nerfstudio_from_environment().interpreter()
    except EnvironmentMissingError as error:
        yield Diagnosis(name="nerfstudio", state="bad", found=error.message, fix="make environments")
        return
    found = installed_version(python, "nerfstudio")
    if found is None:
        yield Diagnosis(name="nerfstudio", state="bad", found=f"not installed at {python}", fix="make environments")
        return
    yield Diagnosis(name="nerfstudio", state="good", found=f"{found} at {python}")
    fast = installed_version(python, "tinycudann")
    yield Diagnosis(
        name="tiny-cuda-nn",
        state="good" if fast else "absent",
        found=fast or "not installed; fields use this project's own grids",
    )


def _demo_weights() -> Iterator[Diagnosis]:
    weights = project_root() / "teachers" / "image" / "demo_weights"
    folders = sorted(path for path in weights.glob("*") if (path / "config.json").is_file())
    size = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    yield Diagnosis(
        name="demo weights",
        state="good" if folders else "bad",
        found=f"{', '.join(f.name for f in folders) or 'none'} ({size / 2**20:.1f} MiB)",
        fix="" if folders else "they are part of the checkout: 'git status teachers/image/demo_weights'",
    )


def _disk(folder: Path) -> Iterator[Diagnosis]:
    existing = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    free = shutil.disk_usage(existing).free / _GIB
    enough = free >= _MIN_DISK_GIB
    yield Diagnosis(
        name="disk",
        state="good" if enough else "bad",
        found=f"{free:.0f} GiB free at {existing}",
        fix="" if enough else f"free some: the demo and both environments take about {_MIN_DISK_GIB} GiB",
    )


def _memory() -> Iterator[Diagnosis]:
    total = psutil.virtual_memory().total / _GIB
    enough = total >= _MIN_MEMORY_GIB - 0.5  # a machine sold as 8 GiB shows a little less
    yield Diagnosis(
        name="memory",
        state="good" if enough else "bad",
        found=f"{total:.0f} GiB",
        fix="" if enough else f"the demo needs {_MIN_MEMORY_GIB} GiB",
    )
