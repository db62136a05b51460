"""A head that labels the voxels of a student's field, as files and in use."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn.functional import softmax

from storage.config_json import config_from_json
from storage.digests import config_json
from storage.errors import ErrorKind, IntegrityError, MissingTargetError
from storage.geometry.voxel_grid import OCC3D_GRID
from storage.kinds import Kind
from storage.stores.integrity import reading_weights
from storage.stores.versioned import Home, StoreVersion
from storage.taxonomy import OCC3D_FREE
from student.config import FinetuneTask
from student.evaluation.sections.occupancy import OccupancyFit, is_above_ground
from student.inference.checkpoint import MODEL_FILE, read_record
from student.inference.predictor import Predictor
from student.model.config import OccupancyHeadConfig
from student.model.occupancy_head import GridReading, OccupancyHead, read_grid
from student.model.voxel_field import VoxelField

HEAD_FILE = "head.safetensors"
HEAD_CONFIG_FILE = "head.json"
HEADS_FOLDER = "heads"
"""Folder of a packed student that holds a folder for each of its heads."""

TASKS: tuple[FinetuneTask, ...] = get_args(FinetuneTask)
_FORMAT = "distillnerf.head/1"


class HeadReading(NamedTuple):
    """What a head says about every voxel of the Occ3D grid, flat.

    Attributes:
        occupancy: Raw probability that the voxel is occupied.
        best_class: Most probable class of an occupied voxel, 0 to 16; None for a head that tells no classes.
    """

    occupancy: Float64[np.ndarray, " voxels"]
    best_class: UInt8[np.ndarray, " voxels"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetunedHead:
    """A head with everything that turns its output into answers.

    Attributes:
        head: The network, in evaluation mode.
        config: Widths of the network.
        task: What it tells of a voxel.
        feature_width: Channels of the fields that it reads.
        fit: Thresholds and calibration.
        checkpoint_digest: Digest of the student whose fields it reads.
    """

    head: OccupancyHead
    config: OccupancyHeadConfig
    task: FinetuneTask
    feature_width: int
    fit: OccupancyFit
    checkpoint_digest: str

    def read(self, field: VoxelField) -> HeadReading:
        """Label the voxels of one frame's field."""
        with torch.inference_mode():
            reading = read_grid(field, OCC3D_GRID)
            return read_head(self.head.to(reading.values.device), reading)

    def label(self, field: VoxelField) -> UInt8[np.ndarray, "200 200 16"]:
        """Return the class of each voxel, 17 where free; a head that tells no classes calls all things 0, "others"."""
        reading = self.read(field)
        classes = np.zeros(len(reading.occupancy), np.uint8) if reading.best_class is None else reading.best_class
        is_above = is_above_ground(np.arange(len(classes)))
        labels = np.where(self.fit.thresholds.is_occupied(reading.occupancy, is_above), classes, np.uint8(OCC3D_FREE))
        return labels.reshape(OCC3D_GRID.shape)

    def save(self, folder: Path) -> None:
        """Write the head so that :meth:`load` can read it."""
        save_file(
            {name: value.cpu().contiguous() for name, value in self.head.state_dict().items()}, folder / HEAD_FILE
        )
        record = {
            "format": _FORMAT,
            "task": self.task,
            "head": config_json(self.config),
            "feature_width": self.feature_width,
            "fit": self.fit.to_json(),
            "checkpoint_digest": self.checkpoint_digest,
        }
        (folder / HEAD_CONFIG_FILE).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "FinetunedHead":
        """Read a head.

        Raises:
            MissingTargetError: If the folder lacks a file.
            IntegrityError: If a file is damaged or of another format, or the weights do not fit.
        """
        for name in (HEAD_CONFIG_FILE, HEAD_FILE):
            if not (folder / name).is_file():
                raise MissingTargetError(ErrorKind.WEIGHTS_MISSING, str(folder / name), "no such file")
        record = _read_record(folder / HEAD_CONFIG_FILE)
        config = config_from_json(OccupancyHeadConfig, record["head"], f"{folder / HEAD_CONFIG_FILE}.head")
        head = new_head(config, record["task"], record["feature_width"])
        path = folder / HEAD_FILE
        try:
            with reading_weights(path):
                head.load_state_dict(load_file(path))
        except (SafetensorError, OSError, RuntimeError) as error:
            raise IntegrityError(ErrorKind.WEIGHTS_INVALID, str(path), f"cannot be read: {error}") from error
        return cls(
            head=head.eval(),
            config=config,
            task=record["task"],
            feature_width=record["feature_width"],
            fit=OccupancyFit.from_json(record["fit"], f"{folder / HEAD_CONFIG_FILE}.fit"),
            checkpoint_digest=record["checkpoint_digest"],
        )


def open_finetuned(home: Home, variant: str, task: FinetuneTask, digest: str | None = None) -> "OpenedHead":
    """Open the current head of a student's variant, or the one with this digest, with the student that it reads.

    Raises:
        MissingTargetError: If there is no such head, or its student was deleted.
        IntegrityError: If a file is damaged.
    """
    folder = home.open_files(home.require(Kind.FINETUNED_HEAD, f"{variant}-{task}", digest), verify=True)
    head = FinetunedHead.load(folder)
    if (folder / MODEL_FILE).is_file():
        return OpenedHead(Predictor.from_folder(folder), head)
    return OpenedHead(Predictor.open(home, variant, head.checkpoint_digest), head)


def heads_of(home: Home, checkpoint: StoreVersion) -> dict[FinetuneTask, Path]:
    """Return the folders of the current heads that read exactly this student's fields, by task.

    A head that brings a student of its own is none of them.

    Raises:
        IntegrityError: If a file of such a head is damaged.
    """
    found: dict[FinetuneTask, Path] = {}
    for task in TASKS:
        version = home.latest(Kind.FINETUNED_HEAD, f"{checkpoint.partition}-{task}")
        if version is None or checkpoint.as_input not in home.provenance(version).inputs:
            continue
        folder = home.open_files(version, verify=True)
        if not (folder / MODEL_FILE).is_file():
            found[task] = folder
    return found


def pack_heads(heads: Mapping[FinetuneTask, Path], folder: Path) -> None:
    """Copy heads into the folder of the student that they read; :func:`packed_heads` finds them there."""
    for task, source in heads.items():
        target = folder / HEADS_FOLDER / task
        target.mkdir(parents=True)
        for name in (HEAD_FILE, HEAD_CONFIG_FILE, "README.md"):
            shutil.copyfile(source / name, target / name)


def packed_heads(folder: Path) -> dict[FinetuneTask, Path]:
    """Return the folders of the heads that were packed with a student, by task."""
    return {task: folder / HEADS_FOLDER / task for task in TASKS if (folder / HEADS_FOLDER / task).is_dir()}


class OpenedHead(NamedTuple):
    """A head and the student whose fields it reads."""

    student: Predictor
    head: FinetunedHead


def new_head(config: OccupancyHeadConfig, task: FinetuneTask, feature_width: int) -> OccupancyHead:
    """Return a head with random weights."""
    num_labels = 1 if task == "occupancy" else OCC3D_FREE + 1
    return OccupancyHead(config, OCC3D_GRID, feature_width=feature_width, num_labels=num_labels)


def read_head(head: OccupancyHead, reading: GridReading) -> HeadReading:
    """Turn the logits of every voxel into probabilities."""
    logits = head(reading).flatten(0, 2).double()
    if logits.shape[1] == 1:
        return HeadReading(torch.sigmoid(logits[:, 0]).cpu().numpy(), None)
    probability = softmax(logits, dim=1)
    best = probability[:, :OCC3D_FREE].argmax(1).to(torch.uint8)
    return HeadReading((1.0 - probability[:, OCC3D_FREE]).cpu().numpy(), best.cpu().numpy())


def _read_record(path: Path) -> Mapping[str, Any]:
    types = {"task": str, "head": dict, "feature_width": int, "fit": dict, "checkpoint_digest": str}
    record = read_record(path, _FORMAT)
    for name, wanted in types.items():
        if not isinstance(record.get(name), wanted):
            message = f"{name} is {record.get(name)!r}, want {wanted.__name__}"
            raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, str(path), message)
    if record["task"] not in TASKS:
        raise IntegrityError(ErrorKind.SCHEMA_UNKNOWN, str(path), f"task is {record['task']!r}")
    return record
