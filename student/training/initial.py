"""Start a fit from the weights of a checkpoint."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from encoders.efficientnet import EfficientNetLite0, imagenet_weights
from storage.errors import ErrorKind, IntegrityError
from student.config import SHIPPED
from student.inference.checkpoint import MODEL_FILE, from_pretrained
from student.inference.feature_bases import load_feature_bases, same_basis
from student.inference.open_vocabulary import StoredFeatureBasis
from student.model.distillnerf import DistillNeRF

_SHIPPED_FOLDER = Path(__file__).resolve().parent.parent / "pretrained"
_HEADS = "feature_heads."
_VOXEL_HEADS = "voxel_feature_heads."
_OCCUPANCY = "occupancy_head."
_SILENT_PARTS = ("coarse_depth.rays.", _OCCUPANCY)
"""Parts that say nothing before they are trained, so that a checkpoint without them starts as it was. Heads of voxel
features are such parts too, each by itself."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialWeights:
    """What a fit took from a checkpoint.

    Attributes:
        taken: Number of parameters taken.
        fresh: Number of parameters that start at random.
        fresh_heads: Feature sources whose heads start at random.
        fresh_parts: Parts that the checkpoint lacks, and that change nothing before they are trained.
        dropped_heads: Feature sources whose heads the checkpoint has and the model does not.
    """

    taken: int
    fresh: int
    fresh_heads: tuple[str, ...]
    fresh_parts: tuple[str, ...]
    dropped_heads: tuple[str, ...]


def initial_folder(name: str) -> Path:
    """Return the folder of a checkpoint by its name: "shipped", or a path."""
    return _SHIPPED_FOLDER if name == SHIPPED else Path(name)


def take_imagenet_weights(model: DistillNeRF) -> bool:
    """Put ImageNet weights into the image encoders that have some, and return whether there are any.

    Raises:
        EnvironmentMissingError: If the package that brings them is not installed.
    """
    trunks = [module for module in model.modules() if isinstance(module, EfficientNetLite0)]
    for trunk in trunks:
        trunk.load_state_dict(imagenet_weights())
    return bool(trunks)


def take_weights(
    model: DistillNeRF, folder: Path, bases: Mapping[str, StoredFeatureBasis] | None = None
) -> InitialWeights:
    """Put the weights of a checkpoint into a model.

    Everything must fit but the heads of features. Such a head starts at random if the checkpoint has none for its
    source, one of other widths, or one that was learned in another basis, where its outputs mean something else. A part
    that says nothing before it is trained may be absent too. An occupancy head that the model does not have is left
    behind, and a head of voxel features goes with the head that it corrects.

    Args:
        model: The model, of any variant.
        folder: The checkpoint.
        bases: Basis of each source that the model is to be taught.

    Raises:
        MissingTargetError: If the folder lacks a file.
        IntegrityError: If the checkpoint is damaged, or a tensor other than a head's is missing, unknown or misshapen.
    """
    found, _ = from_pretrained(folder)
    wanted = model.state_dict()
    left = (_VOXEL_HEADS,) if model.occupancy_head is not None else (_VOXEL_HEADS, _OCCUPANCY)
    tensors = {name: value for name, value in found.state_dict().items() if not name.startswith(left)}
    known, given = load_feature_bases(folder), dict(bases or {})
    usable = {s for s in model.feature_heads if s in known and s in given and same_basis(known[s], given[s])}
    usable = {s for s in usable if _shapes_of_head(tensors, s) == _shapes_of_head(wanted, s)}
    for part in (f"{_VOXEL_HEADS}{source}." for source in usable):
        of_voxels = {name: value for name, value in found.state_dict().items() if name.startswith(part)}
        if all(name in wanted and wanted[name].shape == value.shape for name, value in of_voxels.items()):
            tensors |= of_voxels
    body = {name: value for name, value in tensors.items() if _head_of(name) in {"", *usable}}
    silent_parts = (*_SILENT_PARTS, *(f"{_VOXEL_HEADS}{source}." for source in model.voxel_feature_heads))
    absent = {part for part in silent_parts if not any(name.startswith(part) for name in tensors)}
    silent = {name for name in wanted if name.startswith(tuple(absent))}
    wrong = {name for name in wanted if _head_of(name) in {"", *usable}} - silent ^ set(body)
    wrong |= {name for name in set(body) & set(wanted) if body[name].shape != wanted[name].shape}
    if wrong:
        shown = ", ".join(f"{name} {_shape(tensors, name)} for {_shape(wanted, name)}" for name in sorted(wrong)[:3])
        raise IntegrityError(
            ErrorKind.WEIGHTS_INVALID,
            str(folder / MODEL_FILE),
            f"{len(wrong)} tensors do not fit the model: {shown}; want a checkpoint of the same sizes, or none",
        )
    model.load_state_dict({**wanted, **body})
    parameters = dict(model.named_parameters())
    taken = sum(value.numel() for name, value in parameters.items() if name in body)
    report = InitialWeights(
        taken=taken,
        fresh=sum(value.numel() for value in parameters.values()) - taken,
        fresh_heads=tuple(sorted(set(model.feature_heads) - usable)),
        fresh_parts=tuple(part.rstrip(".") for part in sorted(absent) if any(n.startswith(part) for n in silent)),
        dropped_heads=tuple(sorted({_head_of(name) for name in tensors} - {"", *usable} - set(model.feature_heads))),
    )
    logger.info("starts from %s: %s", folder, report)
    return report


def _head_of(name: str) -> str:
    """Return the feature source whose head a tensor belongs to; empty for all other tensors."""
    return name.removeprefix(_HEADS).partition(".")[0] if name.startswith(_HEADS) else ""


def _shapes_of_head(tensors: Mapping[str, Tensor], source: str) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items() if _head_of(name) == source}


def _shape(tensors: Mapping[str, object], name: str) -> str:
    shape = getattr(tensors.get(name), "shape", None)
    return "none" if shape is None else "x".join(map(str, shape)) or "scalar"
