"""Which model a fit builds: the one place that knows ``NerfConfig.method``."""

import torch
from nerfstudio.models.base_model import ModelConfig

from storage.errors import EnvironmentMissingError, ErrorKind
from teachers.nerf.config import NerfConfig
from teachers.nerf.model import DrivingFieldModel, DrivingFieldModelConfig
from teachers.nerf.nerfacto import NerfactoTeacher, NerfactoTeacherConfig

_NETWORK_LEARNING_RATE_RATIO = 0.5


TeacherModel = DrivingFieldModel | NerfactoTeacher
"""Models of all methods. Beside what nerfstudio's trainer asks of a model, each has ``nerf``, ``bounds`` and ``sampler``.

It is called with nerfstudio's rays in scene units, near and far planes set, a camera of the rig as camera index and a
frame as time. ``rgb``, ``depth`` (scene units along unit rays) and ``opacity`` are among what it returns.
"""


def model_config(nerf: NerfConfig) -> ModelConfig:
    """Return nerfstudio's configuration of the method's model."""
    return DrivingFieldModelConfig() if nerf.method == "driving-field" else NerfactoTeacherConfig()


def learning_rates(nerf: NerfConfig) -> dict[str, float]:
    """Return the learning rate of each of the model's groups of parameters."""
    networks = nerf.learning_rate * _NETWORK_LEARNING_RATE_RATIO
    if nerf.method == "driving-field":
        poses = {"poses": nerf.refinement.learning_rate} if nerf.refinement.is_on else {}
        return {"grids": nerf.learning_rate, "networks": networks, **poses}
    return {"proposal_networks": networks, "fields": networks}


def require_method(nerf: NerfConfig) -> None:
    """Check that this machine has what the method needs.

    Raises:
        EnvironmentMissingError: If it has not.
    """
    if nerf.method == "splatfacto" and not torch.cuda.is_available():
        raise EnvironmentMissingError(
            ErrorKind.ENVIRONMENT_MISSING,
            "gsplat",
            "nerf.method 'splatfacto' rasterises with gsplat, which needs a CUDA device, and torch finds none; "
            "want 'driving-field', 'nerfacto' or 'depth-nerfacto' here",
        )
