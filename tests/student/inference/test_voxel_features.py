"""What fills a voxel is called what cameras render there, not what its cell happens to carry."""

import numpy as np
import torch

from storage.geometry.voxel_grid import OCC3D_GRID
from student.inference.predictor import RenderedViews
from student.inference.voxel_features import voxel_features
from student.model.types import TargetCameras

HEIGHT, WIDTH, WALL_X = 30, 40, 10.0
LEFT, RIGHT = np.array([1.0, 0.0], np.float32), np.array([0.0, 1.0], np.float32)


def cameras(present=(True,)):
    """A camera at the origin that looks along +x, and padding."""
    pose = torch.zeros(1, len(present), 4, 4)
    pose[:] = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    intrinsics = torch.zeros(1, len(present), 3, 3)
    intrinsics[:] = torch.tensor([[20.0, 0, WIDTH / 2], [0, 20, HEIGHT / 2], [0, 0, 1]])
    return TargetCameras(
        intrinsics=intrinsics,
        camera_to_reference_ego=pose,
        target_is_present=torch.tensor([present]),
        render_height=HEIGHT,
        render_width=WIDTH,
    )


def views(views_shown=1):
    """A wall across x = 10 m, of one kind to the left and of another to the right."""
    v, u = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    right, down = (u - WIDTH / 2) / 20.0, (v - HEIGHT / 2) / 20.0
    depth = (WALL_X * np.sqrt(1 + right**2 + down**2)).astype(np.float32)
    depth[0] = np.nan  # sky
    maps = np.where((u < WIDTH / 2)[..., None], LEFT, RIGHT)
    shape = (views_shown, HEIGHT, WIDTH)
    return RenderedViews(
        image=None,
        termination_depth=np.broadcast_to(depth, shape),
        opacity=np.ones(shape, np.float32),
        is_seen=np.ones(shape, bool),
        features={"clip": np.broadcast_to(maps, (*shape, 2))},
    )


def voxels_at(*places):
    index, is_inside = OCC3D_GRID.index_of(np.array(places, np.float64))
    assert is_inside.all()
    return np.ravel_multi_index(tuple(index.T), OCC3D_GRID.shape)


def features_at(*places, is_occupied=None, of=None):
    """Return features, and how often a field was asked whose cells say nothing of use."""
    voxels, asked = voxels_at(*places), []
    found = voxel_features(
        *(of or (cameras(), views())),
        "clip",
        voxels=voxels,
        points=np.zeros((len(voxels), 3), np.float32),
        is_occupied=np.ones(len(voxels), bool) if is_occupied is None else np.array(is_occupied),
        ask_field=lambda points: asked.append(points) or np.full((len(points), 2), 7.0, np.float32),
    )
    return found, sum(map(len, asked))


def test_a_voxel_that_is_seen_takes_what_is_rendered_there():
    found, asked = features_at((10.2, 3.0, 1.0), (10.2, -3.0, 1.0))
    np.testing.assert_array_equal(found, [LEFT, RIGHT])
    assert asked == 0


def test_one_that_is_hidden_takes_after_the_nearest_that_is_seen():
    # Behind the wall, and in the air before it: no camera sees anything there.
    found, asked = features_at((10.2, 3.0, 1.0), (10.2, -3.0, 1.0), (25.0, 9.0, 1.0), (4.0, -1.0, 1.0))
    np.testing.assert_array_equal(found, [LEFT, RIGHT, LEFT, RIGHT])
    assert asked == 0


def test_only_what_is_held_for_occupied_lends_its_feature():
    found, _ = features_at((10.2, 3.0, 1.0), (10.2, -3.0, 1.0), (25.0, 9.0, 1.0), is_occupied=[False, True, True])
    np.testing.assert_array_equal(found, [LEFT, RIGHT, RIGHT])


def test_where_nothing_is_seen_the_field_is_asked():
    found, asked = features_at((25.0, 9.0, 1.0), (-20.0, 0.0, 1.0))
    np.testing.assert_array_equal(found, np.full((2, 2), 7.0))
    assert asked == 2


def test_padded_cameras_show_nothing():
    found, _ = features_at((10.2, 3.0, 1.0), of=(cameras((False, True)), views()))
    np.testing.assert_array_equal(found, [LEFT])
