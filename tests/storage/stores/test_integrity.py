import icechunk
import pytest

from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from storage.stores.integrity import reading


@pytest.mark.parametrize(
    "error", [OSError("gone"), ValueError("short"), RuntimeError("zstd"), icechunk.IcechunkError("lost")]
)
def test_damage_is_told_by_the_key_of_what_was_read(error):
    with pytest.raises(IntegrityError) as caught, reading("scene/tiny.a"):
        raise error
    assert (caught.value.kind, caught.value.key) == (ErrorKind.STORE_CORRUPT, "scene/tiny.a")
    assert caught.value.__cause__ is error


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
