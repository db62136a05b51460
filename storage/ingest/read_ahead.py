"""Read frames on several threads, a few ahead of the consumer; memory holds only those few."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from storage.ingest.recording import FramePayload, Sweep

_MAX_WORKERS = 4  # decoding releases the interpreter lock; more than a few threads only compete for the disk
_FRAMES_AHEAD = 6  # a store writes several frames at once: as many must be under way meanwhile


def reading_pool() -> ThreadPoolExecutor:
    """Return threads to read files with."""
    return ThreadPoolExecutor(min(_MAX_WORKERS, os.cpu_count() or 1))


def read_ahead(
    num_frames: int,
    images_of: Callable[[int], Iterable[Callable[[], bytes]]],
    sweep_of: Callable[[int], Sweep],
) -> Iterator[FramePayload]:
    """Yield frames in order.

    Args:
        num_frames: Number of frames.
        images_of: Returns the calls that read a frame's images; each runs on a thread of the pool.
        sweep_of: Reads a frame's points and labels, on a thread of the pool.
    """
    under_way: deque[tuple[list[Future[bytes]], Future[Sweep]]] = deque()
    with reading_pool() as pool:
        try:
            for frame in range(num_frames):
                images = [pool.submit(image) for image in images_of(frame)]
                under_way.append((images, pool.submit(sweep_of, frame)))
                if len(under_way) > _FRAMES_AHEAD:
                    yield _take(*under_way.popleft())
            while under_way:
                yield _take(*under_way.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after a fault nobody takes what was still to be read


def _take(images: list[Future[bytes]], sweep: Future[Sweep]) -> FramePayload:
    jpegs = tuple(image.result() for image in images)
    points, labels = sweep.result()
    return FramePayload(jpegs=jpegs, points=points, labels=labels)
