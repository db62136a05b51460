import errno

import icechunk
import pytest
from safetensors import SafetensorError

from storage.errors import ErrorKind, HomeUnavailableError, IntegrityError, MissingTargetError, OutOfCapacityError
from storage.stores.integrity import reading, writing


@pytest.mark.parametrize(
    "error", [OSError("gone"), ValueError("short"), RuntimeError("zstd"), icechunk.IcechunkError("lost")]
)
def test_damage_is_told_by_the_key_of_what_was_read(error):
    with pytest.raises(IntegrityError) as caught, reading("scene/tiny.a"):
        raise error
    assert (caught.value.kind, caught.value.key) == (ErrorKind.STORE_CORRUPT, "scene/tiny.a")
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "told",
    [
        "codec: Wrong length (5)",
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000000000 bytes. Error code 12",
    ],
)
def test_what_only_looks_like_a_fault_of_the_machine_is_damage(told):
    with pytest.raises(IntegrityError), reading("a"):
        raise RuntimeError(told)


def test_only_the_first_line_of_a_report_is_kept():
    with pytest.raises(IntegrityError) as caught, reading("a"):
        raise OSError("\n  object not found\n  context:\n  frames")
    assert caught.value.message == "lost or damaged: object not found"


@pytest.mark.parametrize(
    "error", [MissingTargetError(ErrorKind.TARGET_MISSING, "a", "b"), IndexError("frame 9"), KeyboardInterrupt()]
)
def test_what_is_no_damage_passes(error):
    with pytest.raises(type(error)) as caught, reading("a"):
        raise error
    assert caught.value is error


class PanicException(BaseException):
    """What Rust code that gives up is met as."""


class OutOfMemoryError(RuntimeError):
    """What torch raises of a device."""


MACHINE = [
    (OutOfMemoryError("CUDA out of memory"), OutOfCapacityError, ErrorKind.OUT_OF_CAPACITY),
    (
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 64000 bytes. Error code 12 (Cannot allocate memory)"
        ),
        OutOfCapacityError,
        ErrorKind.OUT_OF_CAPACITY,
    ),
    (
        RuntimeError("unable to open file </a/model.safetensors> in read-only mode: Too many open files (24)"),
        OutOfCapacityError,
        ErrorKind.OUT_OF_CAPACITY,
    ),
    (
        RuntimeError("unable to mmap 4096 bytes from file </a/b>: Cannot allocate memory (12)"),
        OutOfCapacityError,
        ErrorKind.OUT_OF_CAPACITY,
    ),
    (OSError(errno.ENOSPC, "full"), OutOfCapacityError, ErrorKind.OUT_OF_CAPACITY),
    (OSError(errno.EMFILE, "files"), OutOfCapacityError, ErrorKind.OUT_OF_CAPACITY),
    (MemoryError(), OutOfCapacityError, ErrorKind.OUT_OF_CAPACITY),
    (OSError(errno.EIO, "disk"), HomeUnavailableError, ErrorKind.IO_FAILED),
    (OSError(errno.EROFS, "read-only"), HomeUnavailableError, ErrorKind.READ_ONLY),
    (PermissionError(errno.EACCES, "no"), HomeUnavailableError, ErrorKind.PERMISSION_DENIED),
    (
        SafetensorError("I/O error: No space left on device (os error 28)"),
        OutOfCapacityError,
        ErrorKind.OUT_OF_CAPACITY,
    ),
    (icechunk.IcechunkError("x\n| Too many open files (os error 24)"), OutOfCapacityError, ErrorKind.OUT_OF_CAPACITY),
    (
        icechunk.IcechunkError("  x Unable to open file a: Too many open files (os\n  | error 24)\n  | \n  | context:"),
        OutOfCapacityError,
        ErrorKind.OUT_OF_CAPACITY,
    ),
    (icechunk.IcechunkError("x Input/output error (os error\n  | 5)\n"), HomeUnavailableError, ErrorKind.IO_FAILED),
    (PanicException('Other("Input/output error (os error 5)")'), HomeUnavailableError, ErrorKind.IO_FAILED),
]


@pytest.mark.parametrize("context", [reading, writing])
@pytest.mark.parametrize(("error", "wanted", "kind"), MACHINE, ids=lambda value: type(value).__name__)
def test_a_fault_of_the_machine_is_told_from_damage(context, error, wanted, kind):
    with pytest.raises(wanted) as caught, context("a"):
        raise error
    assert (caught.value.kind, caught.value.key, caught.value.__cause__) == (kind, "a", error)
    with pytest.raises(wanted), context("a"):
        raise RuntimeError("could not be saved") from error


@pytest.mark.parametrize("error", [ValueError("a bug"), FileNotFoundError(2, "gone"), KeyboardInterrupt()])
def test_what_a_writer_did_wrong_passes(error):
    with pytest.raises(type(error)) as caught, writing("a"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("error", [icechunk.IcechunkError("lost"), PanicException("assertion failed")])
def test_what_icechunk_refuses_is_ours(error):
    with pytest.raises(IntegrityError, match=r"^a: cannot be written") as caught, writing("a"):
        raise error
    assert caught.value.__cause__ is error
