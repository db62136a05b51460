"""What a run of a fit may use: wall time and memory, with an error that says what was used and what to change."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from storage.errors import ErrorKind, OutOfCapacityError
from teachers.nerf.config import ExecutionConfig

_MIB = 1 << 20


class Limits:
    """The limits of one run of a fit, all attempts together.

    Args:
        execution: The limits; one that is None does not exist.
        scene_key: The scene, for errors.
    """

    def __init__(self, execution: ExecutionConfig, scene_key: str) -> None:
        self._execution = execution
        self._scene_key = scene_key
        self._started = time.perf_counter()

    def exceeded(self, done: str) -> OutOfCapacityError | None:
        """Return the error to raise if a limit is exceeded, else None.

        Args:
            done: How far the fit is, for people.
        """
        elapsed_s, limit_s = time.perf_counter() - self._started, self._execution.max_wall_s
        if limit_s is not None and elapsed_s > limit_s:
            return self._error(
                f"{elapsed_s:.0f} s used at {done}, max_wall_s is {limit_s:g}; its checkpoint is kept: run it again to "
                "continue, or allow more with nerf.execution.max_wall_s"
            )
        used, limit = psutil.Process().memory_info().rss, self._execution.max_memory_bytes
        if limit is not None and used > limit:
            return self._error(
                f"{used // _MIB} MiB of memory used at {done}, max_memory_bytes is {limit} ({limit // _MIB} MiB); fit "
                "fewer rays at once (nerf.pixel_rays), smaller images (nerf.image_height and image_width) or smaller "
                "tables (nerf.field.log2_table_size), or allow more with nerf.execution.max_memory_bytes"
            )
        return None

    def _error(self, message: str) -> OutOfCapacityError:
        return OutOfCapacityError(ErrorKind.OUT_OF_CAPACITY, self._scene_key, message)


@contextmanager
def typed_out_of_memory(scene_key: str) -> Iterator[None]:
    """Turn what Python and torch raise when memory ends into the pipeline's error.

    Raises:
        OutOfCapacityError: If the body ran out of memory, of the host or of the device.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # Torch's CPU allocator raises a plain RuntimeError.
        is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
        if not is_memory:
            raise
        message = (
            f"memory ended: {str(error).splitlines()[0] if str(error) else 'MemoryError'}; fit fewer rays at once "
            "(nerf.pixel_rays), smaller images or smaller tables (nerf.field.log2_table_size), or use a larger machine"
        )
        raise OutOfCapacityError(ErrorKind.OUT_OF_CAPACITY, scene_key, message) from error
