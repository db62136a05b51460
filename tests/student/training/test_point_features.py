"""Features of places: the mean of what is filled around them, read by the head; nothing where nothing is."""

from typing import Any

import numpy as np
import pytest
import torch

from storage.geometry.voxel_grid import OCC3D_GRID
from student.config import StudentConfig
from student.data.dataset import FrameDataset
from student.data.training_set import load_training_set
from student.inference import predictor as predictor_module
from student.inference.predictor import Predictor
from student.model.distillnerf import DistillNeRF


@torch.no_grad()
def test_features_of_a_place_are_of_all_that_is_filled_around_it(
    student_config: StudentConfig, shared_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_world.freeze("places", student_config)
    torch.manual_seed(0)
    predictor = Predictor(DistillNeRF(student_config.model), student_config)
    frozen = load_training_set(shared_world.home, "places")
    field = predictor.encode(FrameDataset(shared_world.home, frozen, "train", student_config.data).inputs(0))
    density, points = predictor.voxel_density(field, OCC3D_GRID, np.arange(0, OCC3D_GRID.num_voxels, 499))
    monkeypatch.setattr(predictor_module, "_POINTS_PER_CHUNK", 27 * 100)  # more than one chunk
    seen = predictor.point_features(field, "clip", points)
    assert 20 < (density > 0).sum() < len(points) - 20
    np.testing.assert_array_equal(np.isfinite(seen).all(axis=1), density > 0)
    steps = torch.tensor([-1.0, 0.0, 1.0]) * OCC3D_GRID.voxel_size
    neighbours = 0
    for index in np.flatnonzero(density > 0)[:25]:
        around = torch.from_numpy(points[index]) + torch.cartesian_prod(steps, steps, steps)
        there, features = field.query(around[None])
        filled = features[0][there[0] > 0]
        wanted = predictor.model.foundation_features("clip", filled.mean(dim=0)).numpy()
        np.testing.assert_allclose(seen[index], wanted, atol=1e-5)
        neighbours += len(filled) - 1
    assert neighbours > 0
    with pytest.raises(ValueError, match="dinov2"):
        predictor.point_features(field, "dinov2", points)
