"""The second Python environment, which holds nerfstudio, and the command of its worker.

nerfstudio pins versions that the main environment cannot have, so its steps run in their own interpreter, driven
through Dagster Pipes. This module finds that interpreter; if it is missing, the error tells how to install it.
"""

import subprocess
from pathlib import Path

from storage.errors import EnvironmentMissingError, ErrorKind

NERF_WORKER_MODULE = "teachers.nerf.worker"
_DEFAULT_PYTHON = Path(".venv-nerfstudio/bin/python")


def project_root() -> Path:
    """Return the folder that holds the five packages: a checkout, or the site-packages of an installed wheel."""
    return Path(__file__).resolve().parent.parent


def nerfstudio_python(configured: str = "") -> Path:
    """Return the interpreter of nerfstudio's environment.

    Args:
        configured: Path of the interpreter, absolute or relative to the project; empty for ``.venv-nerfstudio`` of the
            checkout, or of the working directory if the project is installed as a wheel.

    Raises:
        EnvironmentMissingError: If the interpreter is missing.
    """
    bases = [project_root()] if configured else [project_root(), Path.cwd()]
    candidates = [base / (configured or _DEFAULT_PYTHON) for base in bases]
    for candidate in candidates:
        if candidate.is_file():
            return candidate  # not resolved: a link into the base interpreter would leave the environment
    raise EnvironmentMissingError(
        ErrorKind.ENVIRONMENT_MISSING,
        str(candidates[0]),
        "no Python there; 'make environments' builds nerfstudio's environment, "
        "DISTILLNERF_NERFSTUDIO_PYTHON names another one",
    )


def nerf_worker_command(python: Path) -> list[str]:
    """Return the command line of the worker that fits and renders scene fields."""
    return [str(python), "-m", NERF_WORKER_MODULE]


def nerf_worker_environment() -> dict[str, str]:
    """Return the environment variables that the worker gets in addition to those of its parent process."""
    return {"PYTHONPATH": str(project_root()), "PYTHONUNBUFFERED": "1"}


def installed_version(python: Path, distribution: str) -> str | None:
    """Return the version of a distribution in another environment; None if it is not installed."""
    question = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    answer = subprocess.run(
        [str(python), "-c", question], capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL
    )
    return answer.stdout.strip() if answer.returncode == 0 else None
