"""Small corrections of where cameras stand and when they expose, learned with the field.

A recording's calibration can be a decimetre or half a degree wrong, and its cameras a few milliseconds late. One rigid
correction per camera, constant over the drive, and one offset of its clock are learned from colours; the LiDAR, whose
own rays are not corrected, keeps the field where it is. Values are stored with the field, beside the poses of the
recording, which stay as they are. Held-out frames and virtual views are corrected too: nothing here belongs to a frame.

Twists are (rotation vector in radians, translation in metres) in the camera's own axes.
"""

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from storage.geometry.transforms import invert_se3
from storage.scenes.store import SceneReader
from teachers.nerf.config import RefinementConfig


class PoseRefinement(nn.Module):
    """Corrections of the cameras of one scene.

    Attributes:
        camera_twists: Correction of each camera, in units of what the configuration takes for a usual error.
        time_offsets: By how much each camera exposes later than recorded, in the same way.
        motion: Twist per second of each camera of each frame, from the trajectory: what a late exposure shifts it by.

    Args:
        config: What is refined.
        num_frames: Frames of the scene.
        num_cameras: Cameras of the scene.
        motion: What ``camera_motion`` returns; None for a module whose tensors are loaded.
    """

    def __init__(
        self,
        config: RefinementConfig,
        *,
        num_frames: int,
        num_cameras: int,
        motion: Float[np.ndarray, "frames cameras 6"] | None,
    ) -> None:
        super().__init__()
        self.config = config
        self.camera_twists = nn.Parameter(torch.zeros(num_cameras, 6), requires_grad=config.poses)
        self.time_offsets = nn.Parameter(torch.zeros(num_cameras), requires_grad=config.time_offsets)
        self.motion: Tensor
        moves = torch.zeros(num_frames, num_cameras, 6) if motion is None else torch.tensor(motion, dtype=torch.float32)
        self.register_buffer("motion", moves)
        usual = [float(np.radians(config.usual_rotation_deg))] * 3 + [config.usual_translation_m] * 3
        self.usual_twist: Tensor
        self.register_buffer("usual_twist", torch.tensor(usual), persistent=False)

    def twists(self, frame: Int64[Tensor, " images"], camera: Int64[Tensor, " images"]) -> Float[Tensor, "images 6"]:
        """Return the whole correction of some images, on the device of ``frame``."""
        where = frame.device
        frame, camera = frame.to(self.motion.device), camera.to(self.motion.device)
        offset_s = self.config.usual_time_offset_s * self.time_offsets[camera, None]
        return (self.usual_twist * self.camera_twists[camera] + offset_s * self.motion[frame, camera]).to(where)

    def loss(self) -> Float[Tensor, ""]:
        """Return what corrections cost: their mean square, in units of a usual error."""
        return self.config.weight * (self.camera_twists.square().mean() + self.time_offsets.square().mean())

    @torch.no_grad()
    def corrected(self, scene: SceneReader) -> SceneReader:
        """Return the scene with corrected poses of its cameras; the recording's stay as they are."""
        frames, cameras = scene.num_frames, scene.num_cameras
        frame = torch.arange(frames).repeat_interleave(cameras)
        twists = self.twists(frame, torch.arange(cameras).repeat(frames))
        rotation, translation = rigid(twists)
        corrected_to_camera = np.tile(np.eye(4), (len(twists), 1, 1))
        corrected_to_camera[:, :3, :3], corrected_to_camera[:, :3, 3] = rotation.numpy(), translation.numpy()
        poses = np.stack([scene.camera_to_world(f, c) for f in range(frames) for c in range(cameras)])
        return scene.with_cameras_at((poses @ corrected_to_camera).reshape(frames, cameras, 4, 4))

    def summary(self, camera_names: tuple[str, ...]) -> dict[str, dict[str, object]]:
        """Return what was learned, by camera, for people: degrees, metres and milliseconds."""
        twists = (self.usual_twist * self.camera_twists).detach().cpu()
        offsets_ms = (1e3 * self.config.usual_time_offset_s * self.time_offsets).detach().cpu()
        return {
            name: {
                "rotation_deg": torch.rad2deg(twists[camera, :3]).tolist(),
                "translation_m": twists[camera, 3:].tolist(),
                "time_offset_ms": float(offsets_ms[camera]),
            }
            for camera, name in enumerate(camera_names)
        }


def rigid(twists: Float[Tensor, "images 6"]) -> tuple[Float[Tensor, "images 3 3"], Float[Tensor, "images 3"]]:
    """Return the rotation and translation of small twists; the translation is taken as it is, not along the screw."""
    x, y, z = twists[:, :3].unbind(dim=-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).view(-1, 3, 3)
    return torch.linalg.matrix_exp(skew), twists[:, 3:]


def camera_motion(scene: SceneReader) -> Float[np.ndarray, "frames cameras 6"]:
    """Return the twist per second of every camera at every exposure, between its neighbours in time."""
    frames, cameras = scene.num_frames, scene.num_cameras
    motion = np.zeros((frames, cameras, 6))
    for camera in range(cameras):
        poses = np.stack([scene.camera_to_world(f, camera) for f in range(frames)])
        seconds = np.array([scene.camera_timestamp_us(f, camera) for f in range(frames)]) / 1e6
        for frame in range(frames):
            before, after = max(0, frame - 1), min(frames - 1, frame + 1)
            if seconds[after] <= seconds[before]:
                continue  # one frame: nothing moves
            relative = invert_se3(poses[before]) @ poses[after]
            turn = Rotation.from_matrix(relative[:3, :3]).as_rotvec()
            step = poses[frame][:3, :3].T @ (poses[after][:3, 3] - poses[before][:3, 3])
            motion[frame, camera] = np.concatenate([turn, step]) / (seconds[after] - seconds[before])
    return motion
