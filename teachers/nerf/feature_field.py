"""Features of foundation models in the space of one scene, on the frozen geometry of its field (EmerNeRF Sec. 3.3).

One grid of features serves all models, with a decoder and a head for the sky for each. Image features of a foundation
model flicker between views; the field can only hold what is consistent.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from storage.config_json import config_from_json
from storage.digests import config_json
from storage.errors import ErrorKind, IntegrityError
from storage.kinds import FeatureSource
from storage.plain_json import parse_json
from storage.stores.integrity import machine_faults
from teachers.nerf.checkpoint import load_tensors, save_tensors
from teachers.nerf.config import FeatureFieldConfig
from teachers.nerf.encoding import GridEncoding, geometric_resolutions
from teachers.nerf.field import encode_directions
from teachers.nerf.perceptron import perceptron
from teachers.nerf.positional_map import PositionalMap
from teachers.nerf.scene_rays import SceneBounds
from teachers.nerf.teacher import RaySurface

FEATURE_FIELD_SCHEMA = "distillnerf.feature-field/1"
_TENSORS_FILE = "feature_field.safetensors"
_DESCRIPTION_FILE = "feature_field.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureFieldDescription:
    """What the tensors of a feature field mean.

    Attributes:
        config: Configuration of its distillation.
        bounds: The scene's box.
        num_cameras: Number of cameras of the scene.
        num_channels: Channels of the features, by source.
        feature_basis_digests: Basis that reduced the features, by source; None where they say none.
    """

    config: FeatureFieldConfig
    bounds: SceneBounds
    num_cameras: int
    num_channels: Mapping[FeatureSource, int]
    feature_basis_digests: Mapping[FeatureSource, str | None]


class FeatureField(nn.Module):
    """Features of one scene, reduced by their bases to [0, 1].

    A head decodes them for each source, and one of its own decodes the sky's by direction (EmerNeRF Eq. 9). The first
    reads composited features once per ray instead of every sample.

    Args:
        description: Size of the field and of what it learns.
    """

    def __init__(self, description: FeatureFieldDescription) -> None:
        super().__init__()
        self.description = description
        config, channels = description.config, description.num_channels
        self.grid = GridEncoding(
            geometric_resolutions(
                description.bounds.half_extent_m,
                coarsest_cell_m=8.0 * config.finest_cell_m,
                finest_cell_m=config.finest_cell_m,
                num_levels=config.num_levels,
            ),
            features_per_level=config.features_per_level,
            log2_table_size=config.log2_table_size,
        )
        sky_width, width = encode_directions(torch.zeros(1, 3)).shape[1], config.hidden_width
        self.decoders = nn.ModuleDict({s: perceptron(self.grid.output_width, width, n) for s, n in channels.items()})
        self.skies = nn.ModuleDict({s: perceptron(sky_width, width, n) for s, n in channels.items()})
        self.positional = nn.ModuleDict()
        if config.positional != "none":
            self.positional.update({s: self._positional_map(n) for s, n in channels.items()})

    def _positional_map(self, num_channels: int) -> PositionalMap:
        config = self.description.config
        return PositionalMap(
            num_channels,
            num_maps=self.description.num_cameras if config.positional == "per_camera" else 1,
            height=config.positional_height,
            width=config.positional_width,
        )

    def forward(self, surface: RaySurface, source: FeatureSource) -> Float[Tensor, "rays channels"]:
        """Return a source's features of rays, filled up with the sky's by what opacity leaves (EmerNeRF Eq. 10)."""
        rays, samples = surface.weights.shape
        encoded = self.grid(surface.positions.reshape(-1, 3)).view(rays, samples, -1)
        composited = (surface.weights[..., None] * encoded).sum(dim=1)
        opacity = surface.weights.sum(dim=1, keepdim=True)
        sky = torch.sigmoid(self.skies[source](encode_directions(surface.directions)))
        return opacity * torch.sigmoid(self.decoders[source](composited)) + (1.0 - opacity) * sky

    def in_image(
        self,
        surface: RaySurface,
        source: FeatureSource,
        camera_index: Int64[Tensor, " rays"],
        places: Float[Tensor, "rays 2"],
    ) -> Float[Tensor, "rays channels"]:
        """Return the same with what the image model adds at those places, as its own features have it."""
        features = self(surface, source)
        if source not in self.positional:
            return features
        return features + self.positional[source](camera_index, places)


def save_feature_field(folder: Path, field: FeatureField) -> None:
    """Write a feature field's tensors, and as JSON what they mean."""
    save_tensors(folder / _TENSORS_FILE, field.state_dict(), {"schema": FEATURE_FIELD_SCHEMA})
    description = {"schema": FEATURE_FIELD_SCHEMA, **config_json(field.description)}
    (folder / _DESCRIPTION_FILE).write_text(json.dumps(description, indent=2, sort_keys=True))


def load_feature_field(folder: Path) -> FeatureField:
    """Read back what ``save_feature_field`` wrote.

    Raises:
        IntegrityError: If the file is broken, of an unknown schema, its description lacks a field, or its tensors do
            not fit the description.
    """
    written = folder / _DESCRIPTION_FILE
    try:
        with machine_faults(str(written)):
            raw = parse_json(written.read_text())
    except (OSError, ValueError) as error:
        raise IntegrityError(ErrorKind.STORE_CORRUPT, str(written), f"is not JSON: {error}") from error
    seen = raw.pop("schema", None) if isinstance(raw, dict) else None
    if seen != FEATURE_FIELD_SCHEMA:
        raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, str(written), f"schema {seen!r}, want {FEATURE_FIELD_SCHEMA!r}")
    field = FeatureField(config_from_json(FeatureFieldDescription, raw, str(written)))
    path = folder / _TENSORS_FILE
    tensors, _ = load_tensors(path)
    try:
        field.load_state_dict(tensors)
    except RuntimeError as error:
        raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(path), f"does not fit the field: {error}") from error
    return field
