"""Render the demo models' training and held-out images, once, to a cache of memory-mapped arrays."""

import io
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float16, UInt8, UInt16
from PIL import Image

from storage.code import code_digest
from storage.digests import digest_of
from storage.geometry.rays import pixel_grid, termination_depth_to_camera_depth
from storage.procedural.sensing.render import RenderedView, render_camera
from storage.procedural.world.world import World, build_world
from storage.taxonomy import Theme

_CAMERA_TO_EGO = np.array([[0.0, 0, 1, 1.2], [-1, 0, 0, 0], [0, -1, 0, 1.6], [0, 0, 0, 1]])
_DURATION_S = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderSetConfig:
    """Worlds to render, and the number of views of each.

    Attributes:
        name: Name of the set, used for its folder.
        first_seed: Seed of the first world of each theme; the others count up from it.
        worlds_per_theme: Number of worlds of each theme.
        views_per_world: Number of views of each world, with random time, heading, height, pitch and field of view.
        height: Rows of each image.
        width: Columns of each image.
    """

    name: str
    first_seed: int
    worlds_per_theme: int
    views_per_world: int
    height: int = 224
    width: int = 392

    def __post_init__(self) -> None:
        if min(self.worlds_per_theme, self.views_per_world, self.height, self.width) < 1 or self.first_seed < 0:
            raise ValueError(f"{self}: want positive counts and sizes, and a seed of at least 0")


# The demo's scenes have small seeds; these sets and the demo share no world.
TRAINING = RenderSetConfig(name="training", first_seed=710_000, worlds_per_theme=56, views_per_world=16)
HELD_OUT = RenderSetConfig(name="held-out", first_seed=720_000, worlds_per_theme=6, views_per_world=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderSet:
    """Rendered views and their exact truth; arrays may be memory maps.

    Attributes:
        image: sRGB images, JPEG-compressed like recorded ones.
        camera_depth: Depth along the optical axis, metres; NaN is sky.
        semantics: Class ids of ``storage.taxonomy``; 255 is sky.
        instance: Number of the actor; 0 for the surroundings.
        is_airside: True for views of an airfield, False for views of a street.
    """

    image: UInt8[np.ndarray, "views height width 3"]
    camera_depth: Float16[np.ndarray, "views height width"]
    semantics: UInt8[np.ndarray, "views height width"]
    instance: UInt16[np.ndarray, "views height width"]
    is_airside: Bool[np.ndarray, " views"]

    def __len__(self) -> int:
        return len(self.image)

    def chosen(self, views: slice | Bool[np.ndarray, " views"]) -> "RenderSet":
        """Return some of the views."""
        return RenderSet(
            image=self.image[views],
            camera_depth=self.camera_depth[views],
            semantics=self.semantics[views],
            instance=self.instance[views],
            is_airside=self.is_airside[views],
        )


def load_render_set(
    config: RenderSetConfig, cache: Path, on_progress: Callable[[float], None] | None = None
) -> RenderSet:
    """Return a set from the cache, rendering it first if it is not there.

    The folder's name holds the digest of the configuration and of the renderer's sources, so outdated sets are ignored.
    """
    digest = digest_of({"config": config, "code": code_digest(__name__)})
    folder = cache / f"{config.name}-{digest[:12]}"
    if not folder.is_dir():
        _render(config, folder, on_progress)
    return RenderSet(**{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _arrays(config)})


def _arrays(config: RenderSetConfig) -> dict[str, tuple[tuple[int, ...], str]]:
    views = len(Theme) * config.worlds_per_theme * config.views_per_world
    grid = (views, config.height, config.width)
    return {
        "image": ((*grid, 3), "uint8"),
        "camera_depth": (grid, "float16"),
        "semantics": (grid, "uint8"),
        "instance": (grid, "uint16"),
        "is_airside": ((views,), "bool"),
    }


def _render(config: RenderSetConfig, folder: Path, on_progress: Callable[[float], None] | None) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Aside and under a name of its own: two trainings may render the same set at once.
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        arrays = {
            name: np.lib.format.open_memmap(aside / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
            for name, (shape, dtype) in _arrays(config).items()
        }
        _fill(config, arrays, on_progress)
        for array in arrays.values():
            array.flush()
        with suppress(OSError):  # another one was there first
            aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _fill(config: RenderSetConfig, arrays: dict[str, np.ndarray], on_progress: Callable[[float], None] | None) -> None:
    view = 0
    for offset in range(config.worlds_per_theme):
        for theme in Theme:
            seed = config.first_seed + offset
            random = np.random.default_rng([seed, len(theme)])
            world = build_world(theme, seed, duration_s=_DURATION_S)
            for time_us in np.sort(random.integers(0, int(_DURATION_S * 1e6), config.views_per_world)):
                rendered, intrinsics = _random_view(world, int(time_us), random, config.height, config.width)
                arrays["image"][view] = _through_jpeg(rendered.image, int(random.integers(70, 96)))
                arrays["camera_depth"][view] = _camera_depth(rendered, intrinsics)
                arrays["semantics"][view] = rendered.semantics
                arrays["instance"][view] = rendered.instance
                arrays["is_airside"][view] = theme is Theme.AIRSIDE
                view += 1
            if on_progress is not None:
                on_progress(view / len(arrays["image"]))


def _random_view(
    world: World, time_us: int, random: np.random.Generator, height: int, width: int
) -> tuple[RenderedView, Float[np.ndarray, "3 3"]]:
    yaw = random.integers(6) * np.pi / 3 + random.normal(0, 0.15)
    pitch, roll = np.deg2rad(random.normal(0, [3.0, 1.0]))
    field_of_view = np.deg2rad(random.uniform(55, 110))
    focal = 0.5 * width / np.tan(0.5 * field_of_view)
    intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    camera_to_ego = _rotation_z(yaw) @ _CAMERA_TO_EGO @ _rotation_x(pitch) @ _rotation_z(roll)
    camera_to_ego[2, 3] += random.uniform(-0.3, 0.5)
    view = render_camera(world, time_us, world.ego_to_world(time_us) @ camera_to_ego, intrinsics, height, width)
    return view, intrinsics


def _rotation_z(angle: float) -> Float[np.ndarray, "4 4"]:
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


def _rotation_x(angle: float) -> Float[np.ndarray, "4 4"]:
    matrix = np.eye(4)
    matrix[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


def _through_jpeg(image: UInt8[np.ndarray, "height width 3"], quality: int) -> UInt8[np.ndarray, "height width 3"]:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def _camera_depth(view: RenderedView, intrinsics: Float[np.ndarray, "3 3"]) -> Float16[np.ndarray, "height width"]:
    grid = pixel_grid(*view.termination_depth.shape)
    depth = termination_depth_to_camera_depth(view.termination_depth.astype(np.float64), grid, intrinsics)
    return depth.astype(np.float16)
