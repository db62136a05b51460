"""Words for a student: the text encoder and the feature basis that its CLIP targets were made with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from storage.code import PROJECT
from storage.errors import ErrorKind, MissingTargetError
from storage.kinds import Kind
from storage.stores.provenance import InputVersion
from storage.stores.versioned import Home, StoreVersion
from storage.taxonomy import NUM_OCC3D_CLASSES
from student.data.training_set import TrainingSet, load_training_set
from student.inference.open_vocabulary import (
    StoredFeatureBasis,
    TextEncoder,
    class_cosine,
    class_probability,
)
from student.inference.prompts import PromptSet, occ3d_prompts

DEMO_SOURCE = "demo"
"""Source of the shipped image teachers, which were trained on rendered worlds with known classes."""

_FEATURES_KIND, _BASIS_KIND = Kind.CLIP_FEATURES, Kind.FEATURE_BASIS
_SHIPPED_CLIP = PROJECT / "teachers" / "image" / "demo_weights" / "clip"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSpace:
    """Everything needed to compare reduced CLIP features with text.

    Attributes:
        encoder: Text tower of the checkpoint that made the features.
        basis: Basis that reduced the features.
        basis_version: Store that the basis was read from; None for one that came with a student's weights.
        weights_source: Source of the checkpoint as it was asked for, such as ``"demo"``; empty if it is not known.
    """

    encoder: TextEncoder
    basis: StoredFeatureBasis
    basis_version: StoreVersion | None = None
    weights_source: str = ""

    @property
    def inputs(self) -> tuple[InputVersion, ...]:
        """Return the versions from which any result in this space descends."""
        return () if self.basis_version is None else (self.basis_version.as_input,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """A prompt set in a CLIP space, ready to score features.

    Attributes:
        prompts: Classes, their concepts and words.
        embeddings: Unit embedding of every concept.
        basis: Basis of the features.
    """

    prompts: PromptSet
    embeddings: Float32[np.ndarray, "concepts dimension"]
    basis: StoredFeatureBasis

    @classmethod
    def of(cls, space: ClipSpace, prompts: PromptSet) -> "Vocabulary":
        """Encode the words, averaging those of one concept."""
        words = [(index, word) for index, synonyms in enumerate(prompts.flat_concepts) for word in synonyms]
        embedded = space.encoder.embed([prompts.sentence(word) for _, word in words])
        owner = np.array([index for index, _ in words])
        totals = np.zeros((len(prompts.flat_concepts), embedded.shape[1]), np.float32)
        np.add.at(totals, owner, embedded)
        return cls(
            prompts=prompts,
            embeddings=totals / np.linalg.norm(totals, axis=1, keepdims=True),
            basis=space.basis,
        )

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        return len(self.prompts.names)

    def cosine(self, reduced: Float[np.ndarray, "n channels"]) -> Float[np.ndarray, "n classes"]:
        """Return the CLIP cosine of each feature with each class (its best concept); NaN rows stay NaN."""
        return class_cosine(self.basis.cosine(reduced, self.embeddings), self.prompts.concept_classes)

    def probability(
        self, reduced: Float[np.ndarray, "*grid channels"], temperature: float
    ) -> Float[np.ndarray, "*grid classes"]:
        """Return the softmax over classes at a temperature."""
        flat = class_probability(self.cosine(reduced.reshape(-1, reduced.shape[-1])), temperature)
        return flat.reshape(*reduced.shape[:-1], self.num_classes)


def occ3d_vocabulary(space: ClipSpace, template: str) -> Vocabulary:
    """Return the 17 Occ3D classes and, last, the sky; for voxels, drop the last column."""
    return Vocabulary.of(space, occ3d_prompts(with_sky=True, template=template))


def best_voxel_class(cosine: Float[np.ndarray, "n classes"]) -> UInt8[np.ndarray, " n"]:
    """Return the nearest of the 17 voxel classes, never the sky; 17 where the feature is undefined."""
    voxel = cosine[:, :NUM_OCC3D_CLASSES]
    is_defined = np.isfinite(voxel).all(axis=1)
    best = np.where(is_defined, np.nan_to_num(voxel, nan=-2.0).argmax(axis=1), NUM_OCC3D_CLASSES)
    return best.astype(np.uint8)


def training_set_of(home: Home, checkpoint: StoreVersion) -> TrainingSet:
    """Return the frozen training set that a checkpoint was trained on.

    Raises:
        MissingTargetError: If its provenance names none, or the training set is missing.
    """
    for version in home.provenance(checkpoint).inputs:
        if version.kind == Kind.TRAINING_SET:
            return load_training_set(home, version.partition, version.digest)
    raise MissingTargetError(ErrorKind.TARGET_MISSING, str(checkpoint), "its provenance names no training set")


def clip_space_of(home: Home, training_set: TrainingSet, *, text_encoder: str = "") -> ClipSpace:
    """Open the CLIP space of a training set's features.

    Args:
        home: Home of the stores.
        training_set: Training set with ``clip_features``.
        text_encoder: Folder or hub id of the CLIP checkpoint; empty for the one recorded with the features. Its files
            must be the same either way.

    Raises:
        MissingTargetError: If the training set has no CLIP features, or the encoder is missing.
        ProvenanceMismatchError: If the encoder differs from the one that made the features.
    """
    for scene in training_set.scenes:
        if _FEATURES_KIND in scene.stores:
            return clip_space_of_features(home, scene.stores[_FEATURES_KIND], text_encoder=text_encoder)
        if Kind.TEACHER_FEATURES in scene.stores:
            features = clip_features_in(home, scene.stores[Kind.TEACHER_FEATURES])
            return clip_space_of_features(home, features, text_encoder=text_encoder)
    raise MissingTargetError(
        ErrorKind.TARGET_MISSING, _FEATURES_KIND, f"{training_set.version} was frozen without CLIP features"
    )


def clip_features_in(home: Home, distilled: StoreVersion) -> StoreVersion:
    """Return the CLIP features that a feature field, or something rendered from it, was distilled from.

    Raises:
        MissingTargetError: If it was distilled from none, or they were deleted.
    """
    for item in home.provenance(distilled).inputs:
        if item.kind == _FEATURES_KIND:
            return home.require(item.kind, item.partition, item.digest)
    raise MissingTargetError(ErrorKind.TARGET_MISSING, _FEATURES_KIND, f"{distilled} was distilled from none")


def clip_space_of_features(home: Home, features: StoreVersion, *, text_encoder: str = "") -> ClipSpace:
    """Open the CLIP space of some stored features, see :func:`clip_space_of`."""
    attributes: dict[str, Any] = home.open_arrays(features).attrs.asdict()
    provenance = home.provenance(features)
    basis_version = home.require(_BASIS_KIND, "clip", str(attributes["feature_basis_digest"]))
    digests = {name.partition("/")[2]: digest for name, digest in provenance.weights_digests.items()}
    return ClipSpace(
        encoder=TextEncoder(text_encoder or _place_of_weights(attributes), expected_digests=digests),
        basis=StoredFeatureBasis.read(home.open_arrays(basis_version)),
        basis_version=basis_version,
        weights_source=str(attributes["weights_source"]),
    )


def _place_of_weights(attributes: Mapping[str, Any]) -> str:
    """Return the folder or the hub id of the weights that made some features; the folder may have moved since."""
    folder, source = str(attributes["weights_folder"]), str(attributes["weights_source"])
    if Path(folder).is_dir():
        return folder
    return str(_SHIPPED_CLIP) if source == DEMO_SOURCE else source
