"""What a failure in the UI tells people to do."""

import pytest

from assets.failures import failure_of
from storage.errors import ErrorKind, MissingTargetError


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (ErrorKind.TARGET_MISSING, "Materialise the upstream asset"),
        (ErrorKind.TARGET_GATE_FAILED, "--split.allow-ungated"),
        (ErrorKind.TARGET_UNSOUND, "--held-out"),
    ],
)
def test_what_is_there_and_failed_its_gate_is_not_to_be_made_again(kind: ErrorKind, wanted: str) -> None:
    metadata = failure_of(MissingTargetError(kind, "teacher_depth/drives.scene-0004", "did not pass")).metadata
    assert wanted in str(metadata["advice"].value)
