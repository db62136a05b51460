import pickle

import pytest

from storage import errors
from storage.errors import ErrorKind, PipelineError

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, PipelineError) and value is not PipelineError
]


@pytest.mark.parametrize("error_class", CLASSES, ids=lambda c: c.__name__)
def test_message_is_one_readable_line(error_class):
    error = error_class(ErrorKind.FILE_MISSING, "a/b.jpg", "is not there, want a file")
    assert str(error) == "a/b.jpg: is not there, want a file [file_missing]"


@pytest.mark.parametrize("error_class", CLASSES, ids=lambda c: c.__name__)
def test_errors_cross_process_borders(error_class):
    error = error_class(ErrorKind.DIVERGED, "scene", "loss is nan")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is error_class
    assert (copy.kind, copy.key, copy.message) == (error.kind, error.key, error.message)


def test_standard_handlers_catch_them_too():
    assert issubclass(errors.SourceDataError, ValueError)
    assert issubclass(errors.MissingTargetError, KeyError)
    assert issubclass(errors.ProvenanceMismatchError, errors.IntegrityError)


def test_kinds_are_their_own_values():
    """The values stand in catalogues and logs: they are told apart, and read back."""
    assert len({str(kind) for kind in ErrorKind}) == len(ErrorKind)
    assert all(ErrorKind(str(kind)) is kind for kind in ErrorKind)
