"""Read arrays out of a pickle without running anything that it says.

A pickle is a program. This reader knows its instructions for numbers, texts, lists and mappings, and the few names that
numpy arrays and ordered mappings are made of. Each stands for something of this module that only keeps what it is
given, so that not even numpy's own code sees the file before sizes and types are checked.
"""

import io
import pickle
from collections import OrderedDict
from operator import index
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from storage.stores.integrity import machine_fault

MAX_BYTES = 4 << 30
"""Largest pickle that is read; PointRend's has 0.3 GB."""

_DTYPES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
_REFUSED = (
    pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4,
    pickle.PERSID, pickle.BINPERSID, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER,
)  # fmt: skip


class _Dtype:
    """Stands for ``numpy.dtype``."""

    def __init__(self, name: object, *_: object) -> None:
        self.name, self.order = name, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def resolve(self) -> np.dtype:
        if self.name not in _DTYPES or self.order not in {"<", ">", "|", "="}:
            raise ValueError(f"an array of {self.name!r}")
        return np.dtype(f"{self.order}{self.name}")


class _Array:
    """Stands for ``numpy.ndarray``."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.dtype, self.is_fortran, self.content = state

    def resolve(self) -> np.ndarray:
        content = self.content.encode("latin-1") if isinstance(self.content, str) else self.content
        if not isinstance(self.dtype, _Dtype) or not isinstance(content, bytes | bytearray):
            raise TypeError("an array without numbers")
        shape = tuple(index(size) for size in self.shape)
        return np.frombuffer(content, self.dtype.resolve()).reshape(shape, order="F" if self.is_fortran else "C")


def _new_array(of: object, *_: object) -> _Array:
    if of is not _Array:
        raise pickle.UnpicklingError("an array of another class")
    return _Array()


def _new_scalar(dtype: object, content: object) -> _Array:
    return _array_of(content, dtype, (), "C")


def _array_of(content: object, dtype: object, shape: object, order: object) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", content))
    return array


def _no_bytes() -> bytes:
    return b""


def _encode(text: str, encoding: str = "") -> bytes:
    if encoding not in {"latin1", "latin-1"}:
        raise pickle.UnpicklingError(f"bytes in {encoding!r}")
    return text.encode("latin-1")


_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,  # how a pickle of protocol 2 spells bytes
    ("__builtin__", "bytes"): _no_bytes,
    ("collections", "OrderedDict"): OrderedDict,
} | {
    (f"numpy.{core}.{name}", function): stand_in
    for core in ("core", "_core")
    for name, function, stand_in in (
        ("multiarray", "_reconstruct", _new_array),
        ("multiarray", "scalar", _new_scalar),
        ("numeric", "_frombuffer", _array_of),  # protocol 5
    )
}


class _PlainUnpickler(pickle._Unpickler):  # type: ignore[name-defined]  # in Python: the one in C trusts sizes in the file
    dispatch: ClassVar = {code: f for code, f in pickle._Unpickler.dispatch.items() if bytes([code]) not in _REFUSED}  # type: ignore[attr-defined]

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - classes and functions
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"names {module}.{name}, which is not among what arrays need")
        return _NAMES[module, name]

    def load_build(self) -> None:
        if not isinstance(self.stack[-2], _Array | _Dtype):  # pyright: ignore[reportAttributeAccessIssue]
            raise pickle.UnpicklingError("gives a state to something that has none")
        super().load_build()  # pyright: ignore[reportAttributeAccessIssue]

    dispatch[pickle.BUILD[0]] = load_build  # pyright: ignore[reportArgumentType]


def read_pickled_arrays(path: Path, entry: str) -> dict[str, np.ndarray]:
    """Return the arrays that a pickled mapping holds under one name.

    Args:
        path: File with a pickled mapping.
        entry: Name, in that mapping, of a mapping of names to arrays.

    Raises:
        MissingTargetError: If there is no such file.
        IntegrityError: If it is too large, no whole pickle, names anything else than arrays need, or holds no such
            mapping.
    """
    if not path.is_file():
        raise MissingTargetError(ErrorKind.WEIGHTS_MISSING, str(path), "no such file")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(path), f"has {size} bytes, want <= {MAX_BYTES}")
    try:
        stored = _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()[entry]
        arrays = {str(name): value.resolve() for name, value in stored.items()}
    except Exception as error:  # a damaged pickle fails with any class
        # What a file claims in memory is its own fault.
        fault = None if isinstance(error, MemoryError) else machine_fault(str(path), error)
        if fault is not None:
            raise fault from error
        message = f"is no pickle of plain arrays under {entry!r}: {str(error) or type(error).__name__}"
        raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(path), message) from error
    if (claimed := sum(array.nbytes for array in arrays.values())) > size:
        raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(path), f"arrays of {claimed} bytes in a file of {size}")
    return arrays
