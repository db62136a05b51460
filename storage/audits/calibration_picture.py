"""A picture of a calibration that a person can judge: LiDAR over one camera's image, as stated and as it fits best.

The image is drawn pixel by pixel as it was recorded, and a small one larger. A decimetre ten metres away is ten pixels
of a usual camera, and less than two of a thumbnail.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from storage.audits.calibration import CalibrationFit, Change, Gain, RigFit, calibration_frames, change_of
from storage.audits.calibration_evidence import bend
from storage.geometry.in_image import LIDAR_NEAR_M, points_in_image
from storage.geometry.transforms import invert_se3
from storage.previews.pictures import depth_image, encode_image
from storage.scenes.store import SceneReader

_BAR = 28
_WIDTH = 1200  # images of half this width and less are enlarged: their dots would hide what they should show
_DOT_OF_WIDTH = 800  # a dot has one pixel more for each such width


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """The camera that a picture is drawn of, and the change that explains its images best.

    Attributes:
        camera: Its name.
        change: Name of the change.
        is_of_rig: Whether the LiDAR's pose is changed in the ego frame, for all cameras, and not in this camera's.
        gain: Gain of the change beyond chance.
    """

    camera: str
    change: str
    is_of_rig: bool
    gain: float


def suspect_of(fit: RigFit) -> Suspect:
    """Return the camera to look at: the one that fits worst, or any with much to see if the whole rig is off.

    A calibration that is right has a suspect too: its picture shows that the change makes nothing better.
    """

    def best(of: CalibrationFit) -> tuple[str, Gain]:
        return max(of.best_change, of.best_bend, key=lambda change: change[1].at_least)

    def excess(of: CalibrationFit) -> float:
        return best(of)[1].at_least - of.limit

    worst = max(fit.cameras, key=lambda name: excess(fit.cameras[name]))
    richest = max(fit.cameras, key=lambda name: fit.cameras[name].num_jumps)
    is_of_rig = excess(fit.rig) > excess(fit.cameras[worst])
    of = fit.rig if is_of_rig else fit.cameras[worst]
    change, gain = best(of)
    return Suspect(camera=richest if is_of_rig else worst, change=change, is_of_rig=is_of_rig, gain=gain.at_least)


def calibration_picture(reader: SceneReader, suspect: Suspect) -> bytes:
    """Return a JPEG of one camera at full resolution or more with its LiDAR: as stated above, as it fits best below.

    Points are coloured by their distance, red near and blue far.

    Args:
        reader: The scene.
        suspect: The camera and the change, see :func:`suspect_of`.
    """
    camera = reader.camera_names.index(suspect.camera)
    frame = max(calibration_frames(reader), key=lambda frame: len(reader.lidar_points(frame)))
    stated = invert_se3(reader.camera_to_reference_ego(frame, camera))
    change, outwards = change_of(suspect.change)
    changed = stated @ change if suspect.is_of_rig else change @ stated
    of = "the LiDAR of the rig" if suspect.is_of_rig else f"the LiDAR as {suspect.camera} sees it"
    gain = f"fits {suspect.gain:.2f} times as well, chance taken off"
    return encode_image(
        np.concatenate(
            [
                _panel(reader, frame, camera, stated, f"{suspect.camera}, frame {frame}: calibration as stated"),
                _panel(reader, frame, camera, changed, f"{of}: {suspect.change}; {gain}", outwards),
            ]
        ),
        quality=85,
    )


def _panel(
    reader: SceneReader, frame: int, camera: int, ego_to_camera: Change, title: str, outwards: float = 0.0
) -> UInt8[np.ndarray, "height width 3"]:
    image, intrinsics = reader.image(frame, camera), reader.intrinsics(camera)
    height, width = image.shape[:2]
    seen = points_in_image(
        reader.lidar_points(frame)[:, :3].astype(np.float64),
        invert_se3(ego_to_camera),
        intrinsics,
        reader.fisheye(camera),
        size=(height, width),
        near=LIDAR_NEAR_M,
        is_valid=reader.is_valid(camera),
    ).farthest_first()
    colours = depth_image(seen.termination_depth[None])[0]
    pixels = bend(seen.pixels, intrinsics[:2, 2], (height, width), outwards)
    scale = max(1, _WIDTH // width)
    width, height = scale * width, scale * height
    image = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    column, row = np.clip(scale * pixels, 0, (width - 1, height - 1)).astype(np.int64).T
    for down, right in np.ndindex(*(1 + width // _DOT_OF_WIDTH,) * 2):
        image[np.minimum(row + down, height - 1), np.minimum(column + right, width - 1)] = colours
    bar = Image.new("RGB", (width, _BAR), "white")
    ImageDraw.Draw(bar).text((6, 4), title, fill="black", font_size=_BAR // 2 + 2)
    return np.concatenate([np.asarray(bar), image])
