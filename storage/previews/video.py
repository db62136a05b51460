"""Write pictures as a film that every browser plays: H.264 in MP4."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

_QUALITY = "18"  # x264's scale: 0 is lossless, 18 cannot be told from the pictures by eye


def write_mp4(path: Path, pictures: Iterable[UInt8[np.ndarray, "_ _ 3"]], *, frames_per_second: float) -> int:
    """Write pictures of one size as an MP4, and return their number. The file appears when it is whole.

    H.264 stores colour for two by two pixels: the last row or column of an odd size is left out.

    Args:
        path: File to write; it is replaced.
        pictures: RGB.
        frames_per_second: How fast they follow each other.

    Raises:
        ValueError: If there is no picture, they differ in size, or the speed is not positive.
    """
    import av  # loads FFmpeg: only films pay for it

    if not frames_per_second > 0:
        raise ValueError(f"frames_per_second is {frames_per_second}, want more than 0")
    aside = path.with_name(f".{path.name}.partial")
    size, count = (0, 0), 0
    try:
        with av.open(str(aside), mode="w", format="mp4", options={"movflags": "+faststart"}) as film:
            stream = film.add_stream("libx264", rate=Fraction(frames_per_second).limit_denominator(1000))
            stream.pix_fmt, stream.options = "yuv420p", {"crf": _QUALITY}
            for picture in pictures:
                even = np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])
                if not count:
                    size = even.shape[:2]
                    stream.height, stream.width = size
                if even.shape[:2] != size:
                    raise ValueError(f"picture {count} is {even.shape[:2]}, want {size} as those before")
                film.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
                count += 1
            if not count:
                raise ValueError("a film needs at least one picture")
            film.mux(stream.encode(None))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return count
