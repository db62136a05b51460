"""The Waymo Open Dataset's protobuf modules, and a count of the fields that they do not define.

They come from the package ``waymo-open-dataset-tf-2-12-0``, installed without its dependencies: the generated modules
need protobuf alone, while the package asks for TensorFlow 2.12 (docs/adr/0009).
"""

import importlib
from types import ModuleType
from typing import Any

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from storage.errors import EnvironmentMissingError, ErrorKind, SourceDataError

PACKAGE = "waymo-open-dataset-tf-2-12-0"


def dataset_pb2() -> ModuleType:
    """Return the module that defines ``Frame``.

    Raises:
        EnvironmentMissingError: If the package is not installed.
    """
    return _module("waymo_open_dataset.dataset_pb2")


def label_pb2() -> ModuleType:
    """Return the module that defines ``Label``.

    Raises:
        EnvironmentMissingError: If the package is not installed.
    """
    return _module("waymo_open_dataset.label_pb2")


def parse_frame(payload: bytes, key: str) -> Any:  # noqa: ANN401 - generated class without stubs
    """Return a record's ``Frame``.

    Raises:
        SourceDataError: If the bytes are not such a message.
    """
    return parse_message(dataset_pb2().Frame, payload, key)


def parse_message(message_class: Any, payload: bytes, key: str) -> Any:  # noqa: ANN401 - generated class
    """Return the message that ``payload`` encodes.

    Raises:
        SourceDataError: If the bytes are not such a message.
    """
    try:
        return message_class.FromString(payload)
    except DecodeError as error:
        name = message_class.DESCRIPTOR.full_name
        raise SourceDataError(ErrorKind.FILE_CORRUPT, key, f"is no {name}: {error}") from error


def count_unknown_fields(message: Any) -> int:  # noqa: ANN401 - generated class
    """Return the number of fields of a message, nested ones included, that this version does not define.

    A later release may add fields. They do no harm; the scene's record notes their number.
    """
    count = len(UnknownFieldSet(message))
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        if descriptor.message_type.GetOptions().map_entry:
            continue
        repeated = not hasattr(value, "ListFields")
        for item in value if repeated else (value,):
            count += count_unknown_fields(item)
    return count


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        message = f"is not installed; want: pip install --no-deps {PACKAGE}==1.6.7"
        raise EnvironmentMissingError(ErrorKind.ENVIRONMENT_MISSING, PACKAGE, message) from error
