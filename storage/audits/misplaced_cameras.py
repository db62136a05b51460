"""A scene whose stated camera poses are wrong on purpose, to see whether an audit notices."""

import numpy as np
from jaxtyping import Float

from storage.scenes.store import SceneReader


class MisplacedCameras(SceneReader):
    """A scene whose stated camera poses are wrong by a known error.

    Attributes:
        error: Motion of all cameras in the ego frame, or of one camera in its own.
        only_camera: Index of the one camera that is moved; None moves all.
    """

    error: Float[np.ndarray, "4 4"] = np.eye(4)
    only_camera: int | None = None

    def camera_to_ego(self, camera_index: int) -> Float[np.ndarray, "4 4"]:
        """Return the camera's pose with the error applied."""
        mounted = super().camera_to_ego(camera_index)
        if self.only_camera is None:
            return self.error @ mounted
        return mounted @ self.error if camera_index == self.only_camera else mounted
