"""Codecs for the chunks of every store: small, quick to read, and with a checksum that notices a flipped bit.

A chunk says itself how large it becomes. That is compared with what its array declares before anything is allocated.
"""

import math

import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer
from zarr.core.dtype.common import HasItemSize
from zarr.registry import register_codec

MAX_CHUNK_BYTES = 1 << 29
"""Largest chunk that is decoded: a frame of all cameras has some 50 MB at most."""


class BoundedBlosc(BloscCodec):
    """Blosc that decodes a chunk only to the size that its array declares."""

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        claimed = int.from_bytes(chunk_bytes[:8].to_bytes()[4:], "little")
        dtype = chunk_spec.dtype
        wanted = math.prod(chunk_spec.shape) * dtype.item_size if isinstance(dtype, HasItemSize) else claimed
        if claimed != wanted or wanted > MAX_CHUNK_BYTES:
            raise ValueError(f"a chunk claims {claimed} bytes, want {wanted}, and <= {MAX_CHUNK_BYTES}")
        return await super()._decode_single(chunk_bytes, chunk_spec)


register_codec("blosc", BoundedBlosc)
zarr.config.set({"codecs.blosc": f"{BoundedBlosc.__module__}.{BoundedBlosc.__qualname__}"})  # which of them reads

COMPRESSED = (BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"), Crc32cCodec())
"""Codec for plain values. Half floats become smaller than with zarr's default, and are read twice as fast."""

VERBATIM = (Crc32cCodec(),)
"""Codec for content that is already compressed, such as JPEG files."""
