"""Which model a fit builds: the one place that knows ``NerfConfig.method``."""

from importlib.util import find_spec

from nerfstudio.models.base_model import ModelConfig

from storage.errors import EnvironmentMissingError, ErrorKind
from teachers.nerf.config import NerfConfig
from teachers.nerf.model import DrivingFieldModel, DrivingFieldModelConfig
from teachers.nerf.nerfacto import NerfactoTeacher, NerfactoTeacherConfig
from teachers.nerf.splats import SplatTeacher, SplatTeacherConfig, splat_learning_rates

_NETWORK_LEARNING_RATE_RATIO = 0.5


TeacherModel = DrivingFieldModel | NerfactoTeacher | SplatTeacher
"""Models of all methods. Beside what nerfstudio's trainer asks for, each has ``nerf``, ``bounds`` and ``sampler``.

It is called with nerfstudio's rays in scene units, near and far planes set, a camera of the rig as camera index and a
frame as time. ``rgb``, ``depth`` (scene units along unit rays) and ``opacity`` are among what it returns.
"""


def model_config(nerf: NerfConfig) -> ModelConfig:
    """Return nerfstudio's configuration of the method's model."""
    if nerf.method == "driving-field":
        return DrivingFieldModelConfig()
    return SplatTeacherConfig() if nerf.method == "gsplat" else NerfactoTeacherConfig()


def learning_rates(nerf: NerfConfig) -> dict[str, float]:
    """Return the learning rate of each of the model's groups of parameters."""
    networks = nerf.learning_rate * _NETWORK_LEARNING_RATE_RATIO
    if nerf.method == "driving-field":
        poses = {"poses": nerf.refinement.learning_rate} if nerf.refinement.is_on else {}
        return {"grids": nerf.learning_rate, "networks": networks, **poses}
    return (
        splat_learning_rates(nerf) if nerf.method == "gsplat" else {"proposal_networks": networks, "fields": networks}
    )


def require_method(nerf: NerfConfig, device: str) -> None:
    """Check that the method can run on a device.

    Raises:
        EnvironmentMissingError: If it cannot, or what it needs is not installed.
    """
    if nerf.method == "gsplat" and (device != "cuda" or find_spec("gsplat") is None):
        raise EnvironmentMissingError(
            ErrorKind.ENVIRONMENT_MISSING,
            "gsplat",
            f"nerf.method 'gsplat' rasterises on CUDA, and was asked for on device {device!r}; want gsplat installed "
            "and a CUDA device, or method 'driving-field', 'nerfacto' or 'depth-nerfacto'",
        )
