"""Ask a scene's feature field for views, in nerfstudio's environment."""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline.resources import nerfstudio_from_environment
from storage.digests import config_json
from storage.errors import EnvironmentMissingError, ErrorKind
from storage.kinds import Kind
from storage.stores.versioned import Home, StoreVersion
from teachers.nerf.config import ExecutionConfig
from teachers.nerf.feature_request import FeatureReading, FeatureRequest, FeatureView
from teachers.nerf.task import read_result

_MODULE = "teachers.nerf.feature_views"


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
    nerfstudio = nerfstudio_from_environment()
    request = FeatureRequest(
        home_root=str(home.root),
        store_url=home.store_url,
        scene_key=scene_key,
        digest=version.digest,
        views=tuple(views),
        height=size[0],
        width=size[1],
        execution=execution,
    )
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder) / "request.json", Path(folder) / "views.npz"
        asked.write_text(json.dumps(config_json(request)))
        done = subprocess.run(
            [str(nerfstudio.interpreter()), "-m", _MODULE, str(asked), str(answer)],
            env={**os.environ, **nerfstudio.variables()},
            capture_output=True,
            text=True,
            check=False,
        )
        error = answer.with_name(f"{answer.name}.error")
        if error.is_file():
            read_result(error)  # raises it
        if done.returncode != 0:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise EnvironmentMissingError(ErrorKind.ENVIRONMENT_MISSING, _MODULE, f"ended without views: {last[0]}")
        return version, FeatureReading.load(answer)
