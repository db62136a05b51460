"""The ``driving-field`` method, as nerfstudio's own tools know it.

Registered by an environment variable of theirs::

    NERFSTUDIO_METHOD_CONFIGS=driving-field=teachers.nerf.nerfstudio_method:driving_field ns-train driving-field ...
"""

from nerfstudio.plugins.types import MethodSpecification

from teachers.nerf.config import NerfConfig
from teachers.nerf.trainer import trainer_config

driving_field = MethodSpecification(
    config=trainer_config(NerfConfig()),
    description="LiDAR-supervised driving scenes from a distillnerf scene store, fast on a CPU.",
)
"""What nerfstudio's registry loads."""
