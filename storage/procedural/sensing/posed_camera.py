"""A camera anywhere in a world, at any instant: pinhole or fisheye, on a car or elsewhere."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32

from storage.geometry.cameras import project_camera, unproject_camera
from storage.geometry.transforms import apply_se3, invert_se3


@dataclass(frozen=True, slots=True, kw_only=True)
class PosedCamera:
    """A camera at one instant, OpenCV axes.

    Attributes:
        time_us: World time, microseconds.
        camera_to_world: Camera pose; the world frame is the ego's pose at time 0.
        intrinsics: Intrinsics in pixels, with pixel (0, 0) centred at (0.5, 0.5).
        height: Image rows.
        width: Image columns.
        fisheye: Coefficients k1 to k4 of a Kannala-Brandt lens; None or NaN for a pinhole.
    """

    time_us: int
    camera_to_world: Float[np.ndarray, "4 4"]
    intrinsics: Float[np.ndarray, "3 3"]
    height: int
    width: int
    fisheye: Float[np.ndarray, " 4"] | None = None
    _pixel_to_world: Float[np.ndarray, "3 3"] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"image size must be positive, got {self.height} x {self.width}")
        if not (np.isfinite(self.camera_to_world).all() and np.isfinite(self.intrinsics).all()):
            raise ValueError("camera_to_world and intrinsics must be finite")
        if self.fisheye is not None and np.isnan(self.fisheye).all():
            object.__setattr__(self, "fisheye", None)
        if self.fisheye is not None and not np.isfinite(self.fisheye).all():
            raise ValueError("fisheye coefficients must be finite; None or NaN throughout stands for a pinhole")
        # Kept, because rays are asked for chunk by chunk.
        to_world = self.camera_to_world[:3, :3] @ np.linalg.inv(self.intrinsics)
        object.__setattr__(self, "_pixel_to_world", to_world)

    @property
    def origin(self) -> Float[np.ndarray, " 3"]:
        """Return the origin of its rays, world frame, metres."""
        return self.camera_to_world[:3, 3]

    @property
    def pixel_angle(self) -> float:
        """Return the angle between the rays of neighbouring pixels at the image's centre, radians."""
        return 1.0 / float(self.intrinsics[0, 0])

    def pixel_centres(self) -> Float[np.ndarray, "rays 2"]:
        """Return the centre of every pixel, row by row, pixels."""
        v, u = np.mgrid[0 : self.height, 0 : self.width]
        return np.stack([u.reshape(-1) + 0.5, v.reshape(-1) + 0.5], 1)

    def rays(self, pixels: Float[np.ndarray, "rays 2"]) -> Float32[np.ndarray, "rays 3"]:
        """Return unit directions in the world frame; NaN for pixels outside a fisheye's image circle."""
        if self.fisheye is not None:
            local = unproject_camera(pixels, self.intrinsics, self.fisheye)
            return np.ascontiguousarray(local @ self.camera_to_world[:3, :3].T, np.float32)
        to_world = self._pixel_to_world
        rays = pixels @ to_world[:, :2].T + to_world[:, 2]
        rays /= np.sqrt(np.einsum("nc,nc->n", rays, rays))[:, None]
        return rays.astype(np.float32)

    def project(self, points_world: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, "points 2"]:
        """Return the pixels of points; NaN for points behind a pinhole or outside a lens's field of view."""
        local = apply_se3(invert_se3(self.camera_to_world), points_world)
        return project_camera(local, self.intrinsics, self.fisheye)[0]

    def holds(self, pixels: Float[np.ndarray, "points 2"]) -> np.ndarray:
        """Return whether pixel coordinates lie inside the image; False for NaN."""
        return np.all((pixels >= 0.0) & (pixels < (self.width, self.height)), axis=1)
