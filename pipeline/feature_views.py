"""Ask a scene's field for views, in nerfstudio's environment."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import psutil

from pipeline.process_tree import end_trees
from pipeline.resources import nerfstudio_from_environment
from storage.digests import config_json
from storage.errors import EnvironmentMissingError, ErrorKind
from storage.kinds import Kind
from storage.stores.versioned import Home, StoreVersion
from teachers.nerf.config import ExecutionConfig
from teachers.nerf.feature_request import ERROR_FILE, FeatureReading, FeatureRequest, FeatureView, answer_file
from teachers.nerf.task import read_result

_MODULE = "teachers.nerf.feature_views"
_SECONDS_BETWEEN_LOOKS = 0.05


def read_feature_views(
    home: Home,
    scene_key: str,
    views: Sequence[FeatureView],
    size: tuple[int, int],
    execution: ExecutionConfig,
    *,
    digest: str | None = None,
) -> tuple[StoreVersion, FeatureReading]:
    """Return a scene's feature field, the current one or that of a digest, and what it shows from some views.

    Raises:
        MissingTargetError: If the scene's features were not distilled.
        ProvenanceMismatchError: If they were distilled into another field than the scene's current one.
        EnvironmentMissingError: If nerfstudio's environment is not installed, or its process ended without an answer.
    """
    version = home.require(Kind.FEATURE_FIELD, scene_key, digest)
    return version, FeatureReading.joined(list(iterate_views(home, scene_key, views, size, execution, version)))


def iterate_views(
    home: Home,
    scene_key: str,
    views: Sequence[FeatureView],
    size: tuple[int, int],
    execution: ExecutionConfig,
    features: StoreVersion | None,
) -> Generator[FeatureReading, None, None]:
    """Yield what a scene's field shows from each view, as soon as it is rendered.

    Args:
        home: Home of the field.
        scene_key: The scene.
        views: The views, rendered in this order.
        size: Height and width of each.
        execution: How they are rendered.
        features: Feature field to render too; None for colour and depth alone.

    Raises:
        MissingTargetError: If the scene was not fitted.
        ProvenanceMismatchError: If the feature field was distilled into another field than the scene's current one.
        EnvironmentMissingError: If nerfstudio's environment is not installed, or its process ended without an answer.
    """
    nerfstudio = nerfstudio_from_environment()
    request = FeatureRequest(
        home_root=str(home.root),
        store_url=home.store_url,
        scene_key=scene_key,
        digest="" if features is None else features.digest,
        views=tuple(views),
        height=size[0],
        width=size[1],
        execution=execution,
    )
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryFile("w+") as messages:
        folder = Path(name)
        asked = folder / "request.json"
        asked.write_text(json.dumps(config_json(request)))
        process = subprocess.Popen(
            [str(nerfstudio.interpreter()), "-m", _MODULE, str(asked), str(folder)],
            env={**os.environ, **nerfstudio.variables()},
            stdout=subprocess.DEVNULL,
            stderr=messages,
        )
        try:
            for index in range(len(views)):
                path = answer_file(folder, index)
                while not path.is_file():
                    if process.poll() is not None and not path.is_file():
                        _explain(folder, messages.fileno())
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
                yield FeatureReading.load(path)
                path.unlink()
        finally:
            # Asked before it has begun, it may not hear: it is killed then.
            if process.poll() is None:
                end_trees([psutil.Process(process.pid)])
            process.wait()


def _explain(folder: Path, messages: int) -> None:
    """Raise the error that ended the process.

    Raises:
        PipelineError: The typed error that the process left.
        EnvironmentMissingError: If it left none.
    """
    if (folder / ERROR_FILE).is_file():
        read_result(folder / ERROR_FILE)  # raises it
    told = os.pread(messages, os.fstat(messages).st_size, 0).decode(errors="replace")
    last = told.strip().splitlines()[-1:] or ["no message"]
    raise EnvironmentMissingError(ErrorKind.ENVIRONMENT_MISSING, _MODULE, f"ended without views: {last[0]}")
