"""TFRecord files without TensorFlow: a stream of little-endian length, its checksum, payload, its checksum.

A checksum is the CRC-32C of the bytes, rotated right by 15 bits and offset by a constant ("masked"). Both checksums of
every record are always verified.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from storage.errors import ErrorKind, SourceDataError
from storage.stores.integrity import machine_faults

_MASK_DELTA = 0xA282EAD8
_LENGTH = struct.Struct("<QI")
_CRC = struct.Struct("<I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record of a file.

    Attributes:
        index: Position in the file, counted from 0.
        offset: Byte at which its length field begins.
        payload: Content, verified.
    """

    index: int
    offset: int
    payload: bytes


def masked_crc32c(data: bytes) -> int:
    """Return the masked CRC-32C that TFRecord stores for ``data``."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def read_records(path: Path, key: str) -> Iterator[Record]:
    """Yield the records of a file one at a time; memory holds one record.

    Args:
        path: Path of the file.
        key: Name of the file, for errors.

    Raises:
        SourceDataError: If the file cannot be read, is empty or cut, holds an empty record, or a checksum is wrong.
    """
    try:
        with machine_faults(key), path.open("rb") as file:
            size, offset, index = path.stat().st_size, 0, 0
            if size == 0:
                raise SourceDataError(ErrorKind.FILE_CORRUPT, key, "is empty, want at least one record")
            while offset < size:
                payload = _read_record(file, size, offset, f"{key}#record{index}")
                yield Record(index=index, offset=offset, payload=payload)
                offset += _LENGTH.size + len(payload) + _CRC.size
                index += 1
    except OSError as error:
        raise SourceDataError(ErrorKind.FILE_CORRUPT, key, f"cannot be read: {error.strerror}") from error


def check_framing(path: Path, key: str) -> None:
    """Check that the last record of a file is whole, by the lengths of all; payloads are not read.

    Raises:
        SourceDataError: If the file cannot be read, is empty or ends within a record.
    """
    try:
        with machine_faults(key), path.open("rb") as file:
            size, offset = path.stat().st_size, 0
            while offset + _LENGTH.size <= size:
                file.seek(offset)
                (length, _) = _LENGTH.unpack(file.read(_LENGTH.size))
                offset += _LENGTH.size + length + _CRC.size
    except OSError as error:
        raise SourceDataError(ErrorKind.FILE_CORRUPT, key, f"cannot be read: {error.strerror}") from error
    if offset != size or size == 0:
        raise SourceDataError(ErrorKind.FILE_CORRUPT, key, f"has {size} bytes and its records want {offset}")


def read_record_at(path: Path, offset: int, key: str) -> bytes:
    """Return the payload of the record that begins at ``offset``, verified again.

    Raises:
        SourceDataError: See ``read_records``.
    """
    try:
        with machine_faults(key), path.open("rb") as file:
            file.seek(offset)
            return _read_record(file, path.stat().st_size, offset, key)
    except OSError as error:
        raise SourceDataError(ErrorKind.FILE_CORRUPT, key, f"cannot be read: {error.strerror}") from error


def write_records(path: Path, payloads: Iterable[bytes]) -> int:
    """Write payloads as one TFRecord file and return their number."""
    count = 0
    with path.open("wb") as file:
        for payload in payloads:
            length = struct.pack("<Q", len(payload))
            file.write(length + _CRC.pack(masked_crc32c(length)) + payload + _CRC.pack(masked_crc32c(payload)))
            count += 1
    return count


def _read_record(file: BinaryIO, size: int, offset: int, key: str) -> bytes:
    header = file.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        message = f"is cut after {len(header)} of the {_LENGTH.size} bytes of a record's header, at byte {offset}"
        raise SourceDataError(ErrorKind.FILE_CORRUPT, key, message)
    length, seen = _LENGTH.unpack(header)
    # Checked before the length is believed: a flipped bit must not ask for an exabyte.
    _check_crc(header[:8], seen, f"{key}: length")
    if length == 0:
        raise SourceDataError(ErrorKind.FILE_CORRUPT, key, "is a record of zero bytes")
    left = size - offset - _LENGTH.size
    if left < length + _CRC.size:
        message = f"is cut: {left} bytes are left, want {length + _CRC.size}"
        raise SourceDataError(ErrorKind.FILE_CORRUPT, key, message)
    payload = file.read(length)
    _check_crc(payload, _CRC.unpack(file.read(_CRC.size))[0], f"{key}: data")
    return payload


def _check_crc(data: bytes, seen: int, key: str) -> None:
    wanted = masked_crc32c(data)
    if seen != wanted:
        raise SourceDataError(
            ErrorKind.FILE_CORRUPT, key, f"masked CRC-32C is {seen:#010x}, its bytes give {wanted:#010x}"
        )
