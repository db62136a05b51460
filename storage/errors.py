"""The pipeline's errors, one class for each way to handle them.

Each error has a kind (for programs), the key of what failed (a file, a scene, a store) and a message with the value
seen and the value wanted (for people).
"""

from enum import StrEnum


class ErrorKind(StrEnum):
    """Kind of fault. Append only: the values are written into catalogues and run logs."""

    FILE_MISSING = "file_missing"
    FILE_CORRUPT = "file_corrupt"
    FILE_UNSAFE = "file_unsafe"
    TABLE_MISSING = "table_missing"
    TABLE_INVALID = "table_invalid"
    SCENE_UNKNOWN = "scene_unknown"
    SCENE_DUPLICATE = "scene_duplicate"
    NAME_INVALID = "name_invalid"
    VERSION_UNKNOWN = "version_unknown"
    CALIBRATION_INVALID = "calibration_invalid"
    POSE_INVALID = "pose_invalid"
    TIME_INVALID = "time_invalid"
    IMAGE_INVALID = "image_invalid"
    LIDAR_INVALID = "lidar_invalid"
    LABELS_INVALID = "labels_invalid"
    STORE_MISSING = "store_missing"
    STORE_CORRUPT = "store_corrupt"
    SCHEMA_UNKNOWN = "schema_unknown"
    DIGEST_MISMATCH = "digest_mismatch"
    TARGET_MISSING = "target_missing"
    TARGET_UNGATED = "target_ungated"
    TARGET_GATE_FAILED = "target_gate_failed"
    TARGET_FORBIDDEN = "target_forbidden"
    WEIGHTS_MISSING = "weights_missing"
    WEIGHTS_INVALID = "weights_invalid"
    ENVIRONMENT_MISSING = "environment_missing"
    DIVERGED = "diverged"
    OUT_OF_CAPACITY = "out_of_capacity"
    READ_ONLY = "read_only"
    PERMISSION_DENIED = "permission_denied"
    IO_FAILED = "io_failed"
    LOCKED = "locked"
    CLASSES_INVALID = "classes_invalid"
    VERDICTS_INVALID = "verdicts_invalid"
    STORE_UNREACHABLE = "store_unreachable"
    SOURCE_MOVED = "source_moved"
    TARGET_UNSOUND = "target_unsound"


class PipelineError(Exception):
    """Base of every error that the pipeline raises on purpose.

    Attributes:
        kind: Kind of fault, for programs.
        key: File, scene, store or weight that failed.
        message: One line for people: the value seen and the value wanted.
    """

    def __init__(self, kind: ErrorKind, key: str, message: str) -> None:
        super().__init__(kind, key, message)
        self.kind = kind
        self.key = key
        self.message = message

    def __str__(self) -> str:
        return f"{self.key}: {self.message} [{self.kind}]"


class SourceDataError(PipelineError, ValueError):
    """Raw data is missing, broken or inconsistent: quarantine the scene, do not retry."""


class SourceMovedError(PipelineError):
    """Raw data is not where its source says: name its new place, or mount it; what is stored of it stays in use."""


class MissingTargetError(PipelineError, KeyError):
    """An upstream version is missing or failed its quality gate: materialise it first."""

    __str__ = PipelineError.__str__  # KeyError would show the repr of its arguments


class IntegrityError(PipelineError):
    """Stored data was read and is damaged, or is of an unknown form: set it aside and build it again."""


class ProvenanceMismatchError(IntegrityError):
    """A stored version is sound, but was made from other inputs than asked for."""


class TeacherDivergedError(PipelineError):
    """A teacher's fit broke down: retry with the next seed, then quarantine."""


class StudentDivergedError(PipelineError):
    """A student's loss or gradient is not finite: look at the named samples, or fit with another rate or seed."""


class OutOfCapacityError(PipelineError):
    """Memory, disk, file descriptors or time ran out: free some, or retry on a larger machine."""


class HomeUnavailableError(PipelineError):
    """A home's disk failed or may not be used; nothing is known of what it holds: mend that, then ask again."""


class StoreUnreachableError(HomeUnavailableError):
    """An object store did not answer, retries included: nothing is to be mended, ask again later."""


class StoreLockedError(PipelineError):
    """Another process holds what is to be written: wait for it, or end it."""


class EnvironmentMissingError(PipelineError):
    """A program, package or environment that the step runs in is not installed."""


def error_of_another_process(type_name: str, kind: str, key: str, message: str) -> PipelineError:
    """Return the error that another process raised, as it told of it: by the name of its class and its three parts."""
    known = globals().get(type_name)
    if isinstance(known, type) and issubclass(known, PipelineError):
        return known(ErrorKind(kind), key, message)
    return PipelineError(ErrorKind(kind), key, message)
