"""The radial-tangential lens model (k1, k2, p1, p2, k3), and maps that undo it.

With x and y the coordinates on the plane z = 1 and r its radius, the lens moves a point to
``x (1 + k1 r² + k2 r⁴ + k3 r⁶) + 2 p1 x y + p2 (r² + 2 x²)``, and likewise in y with p1 and p2 exchanged. A polynomial
folds back at some radius; beyond it the model means nothing, and is not evaluated.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, UInt8, UInt16

from storage.digests import digest_of

_NEWTON_STEPS = 20
_NEWTON_STEP = 1e-6
_ROWS_PER_STEP = 128  # bounds the memory of a remap, whatever the image
_WEIGHT_BITS = 7
MAP_METHOD = "bilinear, 1/128 pixel, same size, principal point kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class LensDistortion:
    """Coefficients of one lens, without unit."""

    k1: float = 0.0
    k2: float = 0.0
    p1: float = 0.0
    p2: float = 0.0
    k3: float = 0.0

    def __post_init__(self) -> None:
        if not np.isfinite(self.coefficients).all():
            raise ValueError(f"coefficients are {self.coefficients}, want finite numbers")

    @property
    def coefficients(self) -> tuple[float, float, float, float, float]:
        """Return k1, k2, p1, p2, k3."""
        return (self.k1, self.k2, self.p1, self.p2, self.k3)

    @property
    def is_none(self) -> bool:
        """Whether the lens is an ideal pinhole."""
        return not any(self.coefficients)

    @property
    def fold_radius(self) -> float:
        """Return the radius on the plane z = 1 up to which the radial polynomial grows; infinite if it always does."""
        roots = np.roots([7 * self.k3, 5 * self.k2, 3 * self.k1, 1.0])
        real = roots[np.abs(roots.imag) < 1e-9].real
        positive = real[real > 0]
        return float(np.sqrt(positive.min())) if len(positive) else float("inf")


def distort(points: Float[np.ndarray, "*batch 2"], lens: LensDistortion) -> Float[np.ndarray, "*batch 2"]:
    """Return where the lens moves points of the plane z = 1.

    A point beyond the fold radius is moved from the fold radius, in its own direction: it stays outside of any image
    that lies within, where the bare polynomial would bring it back in.
    """
    if lens.is_none:
        return points
    x, y = points[..., 0], points[..., 1]
    radius = np.maximum(np.sqrt(x * x + y * y), 1e-12)
    held = np.minimum(1.0, lens.fold_radius / radius)
    x, y = x * held, y * held
    r2 = x * x + y * y
    radial = 1.0 + r2 * (lens.k1 + r2 * (lens.k2 + r2 * lens.k3))
    return np.stack(
        [
            x * radial + 2 * lens.p1 * x * y + lens.p2 * (r2 + 2 * x * x),
            y * radial + lens.p1 * (r2 + 2 * y * y) + 2 * lens.p2 * x * y,
        ],
        axis=-1,
    )


def undistort(points: Float[np.ndarray, "*batch 2"], lens: LensDistortion) -> Float[np.ndarray, "*batch 2"]:
    """Return the points that the lens moves to ``points``, by Newton's method; NaN where there is none."""
    if lens.is_none:
        return points
    found = points.copy()
    steps = _NEWTON_STEP * np.eye(2)
    for _ in range(_NEWTON_STEPS):
        defect = distort(found, lens) - points
        along_x, along_y = (
            (distort(found + step, lens) - distort(found - step, lens)) / (2 * _NEWTON_STEP) for step in steps
        )
        determinant = along_x[..., 0] * along_y[..., 1] - along_x[..., 1] * along_y[..., 0]
        determinant = np.where(np.abs(determinant) < 1e-9, np.nan, determinant)
        dx = (along_y[..., 1] * defect[..., 0] - along_y[..., 0] * defect[..., 1]) / determinant
        dy = (along_x[..., 0] * defect[..., 1] - along_x[..., 1] * defect[..., 0]) / determinant
        found = found - np.stack([dx, dy], axis=-1)
        if np.nanmax(np.abs(defect), initial=0.0) < 1e-12:
            break
    wrong = ~(np.abs(distort(found, lens) - points).max(axis=-1) < 1e-8)
    found[wrong] = np.nan
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class UndistortionMap:
    """Where each pixel of an undistorted image comes from.

    Attributes:
        size: Height and width of both images.
        corner: Flat index of the upper left of the four source pixels.
        weight_x: Weight of the right ones, in 1/128.
        weight_y: Weight of the lower ones, in 1/128.
    """

    size: tuple[int, int]
    corner: Int64[np.ndarray, "height width"]
    weight_x: UInt16[np.ndarray, "height width"]
    weight_y: UInt16[np.ndarray, "height width"]

    def apply(self, image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width 3"]:
        """Return the undistorted image.

        Raises:
            ValueError: If the image has another size than the map.
        """
        if image.shape[:2] != self.size:
            raise ValueError(f"image is {image.shape[:2]}, the map is for {self.size} (height, width)")
        height, width = self.size
        source = image.reshape(-1, 3)
        out = np.empty_like(image)
        one = np.uint16(1 << _WEIGHT_BITS)
        half = np.uint32(1 << (2 * _WEIGHT_BITS - 1))
        for start in range(0, height, _ROWS_PER_STEP):
            part = slice(start, start + _ROWS_PER_STEP)
            corner = self.corner[part]
            right, lower = self.weight_x[part][..., None], self.weight_y[part][..., None]
            left = one - right
            # 255 * 128 fits 16 bits, so only the second blend needs 32.
            upper_row = source[corner] * left + source[corner + 1] * right
            lower_row = source[corner + width] * left + source[corner + width + 1] * right
            total = upper_row * (one - lower).astype(np.uint32) + lower_row * lower.astype(np.uint32)
            out[part] = (total + half) >> (2 * _WEIGHT_BITS)
        return out

    def nearest(self, labels: UInt16[np.ndarray, "height width"]) -> UInt16[np.ndarray, "height width"]:
        """Return undistorted labels, which unlike colours cannot be blended: each is that of the nearest pixel.

        Raises:
            ValueError: If the labels have another size than the map.
        """
        if labels.shape != self.size:
            raise ValueError(f"labels are {labels.shape}, the map is for {self.size} (height, width)")
        middle = 1 << (_WEIGHT_BITS - 1)
        return labels.reshape(-1)[self.corner + (self.weight_x > middle) + self.size[1] * (self.weight_y > middle)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Undistortion:
    """How a camera's images become pinhole images of the same size and principal point; known before any is made.

    Attributes:
        recorded_intrinsics: Intrinsics of the distorted images, pixels, without skew.
        lens: Their distortion.
        size: Height and width.
        focal_scale: Focal lengths over those of the distorted images; over 1 where the lens would leave empty corners.
    """

    recorded_intrinsics: Float[np.ndarray, "3 3"]
    lens: LensDistortion
    size: tuple[int, int]
    focal_scale: float

    @property
    def intrinsics(self) -> Float[np.ndarray, "3 3"]:
        """Return those of the undistorted images, pixels."""
        return _scaled(self.recorded_intrinsics, self.focal_scale)

    @property
    def digest(self) -> str:
        """Return the SHA-256 of all that determines the map."""
        return digest_of(
            {
                "intrinsics": self.recorded_intrinsics.tolist(),
                "coefficients": self.lens.coefficients,
                "size": self.size,
                "focal_scale": self.focal_scale,
                "method": MAP_METHOD,
            }
        )

    def build_map(self) -> UndistortionMap:
        """Return the map: 12 bytes a pixel, so it is built for the camera at hand and kept while its images last."""
        height, width = self.size
        rows, columns = np.mgrid[0:height, 0:width] + 0.5
        pixels = np.stack([columns, rows], axis=-1)
        source = _source_pixels(pixels, self.recorded_intrinsics, self.intrinsics, self.lens)
        # Weights count between pixel centres; within half a pixel of the border the border's own value is taken.
        x = np.clip(source[..., 0] - 0.5, 0.0, width - 1.0)
        y = np.clip(source[..., 1] - 0.5, 0.0, height - 1.0)
        left = np.minimum(x.astype(np.int64), width - 2)
        top = np.minimum(y.astype(np.int64), height - 2)
        one = 1 << _WEIGHT_BITS
        return UndistortionMap(
            size=self.size,
            corner=top * width + left,
            weight_x=np.round((x - left) * one).astype(np.uint16),
            weight_y=np.round((y - top) * one).astype(np.uint16),
        )


def plan_undistortion(
    intrinsics: Float[np.ndarray, "3 3"], lens: LensDistortion, size: tuple[int, int]
) -> Undistortion:
    """Return how to get pinhole images every pixel of which was really seen.

    Focal lengths are kept where the lens allows it and raised where it does not: an image never has invented borders.

    Args:
        intrinsics: Intrinsics of the distorted images, pixels, without skew.
        lens: Their distortion.
        size: Height and width.

    Raises:
        ValueError: If no focal length up to four times the original fills the image.
    """
    scale = _filling_scale(intrinsics, lens, size)
    return Undistortion(recorded_intrinsics=intrinsics, lens=lens, size=size, focal_scale=scale)


def _scaled(intrinsics: Float[np.ndarray, "3 3"], scale: float) -> Float[np.ndarray, "3 3"]:
    return intrinsics * np.array([[scale, 1.0, 1.0], [1.0, scale, 1.0], [1.0, 1.0, 1.0]])


def _source_pixels(
    pixels: Float[np.ndarray, "*batch 2"],
    intrinsics: Float[np.ndarray, "3 3"],
    ideal: Float[np.ndarray, "3 3"],
    lens: LensDistortion,
) -> Float[np.ndarray, "*batch 2"]:
    plane = (pixels - ideal[:2, 2]) / np.array([ideal[0, 0], ideal[1, 1]])
    return distort(plane, lens) * np.array([intrinsics[0, 0], intrinsics[1, 1]]) + intrinsics[:2, 2]


def _filling_scale(intrinsics: Float[np.ndarray, "3 3"], lens: LensDistortion, size: tuple[int, int]) -> float:
    """Return the smallest focal scale >= 1 (to 1e-4) at which the image's border comes from inside the source."""
    height, width = size
    along_x, along_y = np.linspace(0, width, 65), np.linspace(0, height, 65)
    border = np.concatenate(
        [np.stack(np.broadcast_arrays(along_x, y), axis=-1) for y in (0.0, float(height))]
        + [np.stack(np.broadcast_arrays(x, along_y), axis=-1) for x in (0.0, float(width))]
    )

    def fills(scale: float) -> bool:
        ideal = _scaled(intrinsics, scale)
        plane = (border - ideal[:2, 2]) / np.array([ideal[0, 0], ideal[1, 1]])
        source = _source_pixels(border, intrinsics, ideal, lens)
        inside = (source >= -1e-9) & (source <= np.array([width, height]) + 1e-9)
        return bool(inside.all() and np.linalg.norm(plane, axis=-1).max() < lens.fold_radius)

    if fills(1.0):
        return 1.0
    low, high = 1.0, 4.0
    if not fills(high):
        raise ValueError(f"no focal scale up to {high} fills {width} x {height} pixels with {lens}")
    while high - low > 1e-4:
        middle = 0.5 * (low + high)
        low, high = (low, middle) if fills(middle) else (middle, high)
    return high
