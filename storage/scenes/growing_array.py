"""An array of a store whose length is unknown until its last row."""

import numpy as np
import zarr

from storage.stores.codecs import COMPRESSED, VERBATIM

_CHUNKS_PER_WRITE = 16  # the array's length is written once for so many chunks


class GrowingArray:
    """Append rows to an array; full chunks are written at once, so memory holds only a few.

    Args:
        group: Group that holds the array.
        name: Name of the array in the group.
        rows_per_chunk: Rows of a chunk; fewer if the whole array is shorter.
        compress: Whether chunks are compressed.
    """

    def __init__(self, group: zarr.Group, name: str, *, rows_per_chunk: int, compress: bool = True) -> None:
        self.num_rows = 0
        self._group, self._name = group, name
        self._rows_per_chunk, self._compress = rows_per_chunk, compress
        self._waiting: list[np.ndarray] = []
        self._num_written = 0
        self._array: zarr.Array | None = None

    def append(self, rows: np.ndarray) -> None:
        """Add rows; all calls need the same type and trailing shape."""
        self._waiting.append(rows)
        self.num_rows += len(rows)
        unwritten = self.num_rows - self._num_written
        if unwritten >= _CHUNKS_PER_WRITE * self._rows_per_chunk:
            self._write(unwritten - unwritten % self._rows_per_chunk)

    def close(self) -> None:
        """Write the remaining rows; without any row the array is empty."""
        self._write(self.num_rows - self._num_written)

    def _write(self, count: int) -> None:
        rows = np.concatenate(self._waiting)
        stop = self._num_written + count
        if self._array is None:
            chunks = (max(1, min(self._rows_per_chunk, count)), *rows.shape[1:])
            self._array = self._group.create_array(
                self._name,
                shape=(stop, *rows.shape[1:]),
                dtype=rows.dtype,
                chunks=chunks,
                compressors=COMPRESSED if self._compress else VERBATIM,
            )
        else:
            self._array.resize((stop, *rows.shape[1:]))
        if count:
            self._array[self._num_written : stop] = rows[:count]
        self._waiting = [rows[count:].copy()]  # a view would keep what was written
        self._num_written = stop
