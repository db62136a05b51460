"""Read frames on several threads, a few ahead of whoever takes them: memory holds those few, whatever the scene."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

_FRAMES_AHEAD = 2

Part = TypeVar("Part")
Frame = TypeVar("Frame")


def read_ahead(
    pool: Executor,
    frames: Iterable[int],
    parts_of: Callable[[int], Iterable[Callable[[], Part]]],
    assemble: Callable[[int, tuple[Part, ...]], Frame],
) -> Iterator[Frame]:
    """Yield frames in order.

    Args:
        pool: Runs the parts.
        frames: Which frames.
        parts_of: Returns the calls that make the parts of a frame; they run in the pool.
        assemble: Makes a frame of its parts.
    """
    under_way: deque[tuple[int, list[Future[Part]]]] = deque()
    for frame in frames:
        under_way.append((frame, [pool.submit(part) for part in parts_of(frame)]))
        if len(under_way) > _FRAMES_AHEAD:
            yield _take(*under_way.popleft(), assemble)
    while under_way:
        yield _take(*under_way.popleft(), assemble)


def _take(frame: int, parts: list[Future[Part]], assemble: Callable[[int, tuple[Part, ...]], Frame]) -> Frame:
    return assemble(frame, tuple(part.result() for part in parts))
