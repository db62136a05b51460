"""Compare voxel and pixel features with words, in CLIP's own space.

The student predicts features reduced by a basis (a shifted, scaled PCA). A cosine taken there is not
CLIP's cosine, so each comparison is with the *reconstructed* feature ``mean + components @ z``. Since
``z`` is short, its dot product with a text and its norm are quadratic forms in ``z``: exact, without
ever building the long vector.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from jaxtyping import Float, Float32, Int
from scipy.optimize import minimize_scalar
from torch import Tensor

from storage.digests import digest_of, file_digest
from storage.errors import ErrorKind, MissingTargetError, ProvenanceMismatchError
from storage.kinds import Kind
from storage.stores.arrays import read_target
from storage.stores.integrity import machine_faults

_CHECKED = {".json", ".safetensors", ".txt"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFeatureBasis:
    """The affine map between stored, reduced features and the teacher's own.

    Attributes:
        mean: Mean of the teacher's features.
        components: Principal directions, as columns.
        minimum: Coordinate that is stored as 0, per component.
        maximum: Coordinate that is stored as 1, per component.
    """

    mean: Float32[np.ndarray, " dimension"]
    components: Float32[np.ndarray, "dimension channels"]
    minimum: Float32[np.ndarray, " channels"]
    maximum: Float32[np.ndarray, " channels"]

    @classmethod
    def read(cls, group: zarr.Group) -> "StoredFeatureBasis":
        """Read a ``feature_basis`` store."""
        names = ("mean", "components", "minimum", "maximum")
        mean, components, minimum, maximum = (read_target(group, Kind.FEATURE_BASIS, name) for name in names)
        return cls(mean=mean, components=components, minimum=minimum, maximum=maximum)

    def reconstruct(self, reduced: Float[np.ndarray, "*batch channels"]) -> Float[np.ndarray, "*batch dimension"]:
        """Return the teacher's features that the reduced ones stand for."""
        return self.mean + self.coordinates(reduced) @ self.components.T

    def cosine(
        self, reduced: Float[np.ndarray, "n channels"], embeddings: Float[np.ndarray, "texts dimension"]
    ) -> Float[np.ndarray, "n texts"]:
        """Return the cosine of each reconstructed feature with each unit embedding.

        Args:
            reduced: Stored or predicted features, about [0, 1]. A row with a NaN gives NaN.
            embeddings: Unit embeddings of texts.
        """
        z = self.coordinates(reduced)
        dot = z @ (self.components.T @ embeddings.T) + self.mean @ embeddings.T
        gram = self.components.T @ self.components
        squared = np.sum((z @ gram) * z, axis=1) + 2.0 * z @ (self.components.T @ self.mean) + self.mean @ self.mean
        return dot / np.sqrt(np.maximum(squared, 1e-12))[:, None]

    def coordinates(self, reduced: Float[np.ndarray, "*batch channels"]) -> Float[np.ndarray, "*batch channels"]:
        """Return the coordinates along the components, from the mean, that reduced features stand for.

        Raises:
            ValueError: If they have another number of channels than the basis.
        """
        if reduced.shape[-1] != self.minimum.shape[0]:
            raise ValueError(f"features have {reduced.shape[-1]} channels, the basis has {self.minimum.shape[0]}")
        return self.minimum + reduced.astype(np.float32) * (self.maximum - self.minimum)


class TextEncoder:
    """The text tower of CLIP or SigLIP, and the temperature it was trained with.

    Args:
        source: Folder or model hub id that ``from_pretrained`` takes.
        expected_digests: SHA-256 by file name that the folder's files must have; empty to accept any.
            Features of one checkpoint must not be read with another's words.

    Attributes:
        source: Source of the checkpoint, as given.
        digest: SHA-256 over the digests of ``model.safetensors`` and the tokenizer's files.
        temperature: Divisor of cosines before CLIP's softmax.

    Raises:
        MissingTargetError: If the source holds no CLIP checkpoint.
        ProvenanceMismatchError: If a file differs from the expected one.
    """

    def __init__(self, source: str, *, expected_digests: Mapping[str, str] | None = None) -> None:
        from transformers import AutoModel, AutoTokenizer, CLIPModel, SiglipModel  # heavy: only who reads text pays
        from transformers.utils import logging as transformers_logging

        digests = dict(expected_digests or {})
        if Path(source).is_dir():
            transformers_logging.disable_progress_bar()  # a folder is read at once; only a download takes its time
            for name, wanted in digests.items():
                path = Path(source) / name
                seen = file_digest(path) if path.is_file() else "no file"
                if seen != wanted:
                    message = f"the features were made with {wanted[:12]}, here is {seen[:12]}"
                    raise ProvenanceMismatchError(ErrorKind.DIGEST_MISMATCH, str(path), message)
            digests = digests or {
                path.name: file_digest(path) for path in sorted(Path(source).iterdir()) if path.suffix in _CHECKED
            }
        try:
            with machine_faults(source):
                self._tokenizer = AutoTokenizer.from_pretrained(source)
                model: Any = AutoModel.from_pretrained(source, use_safetensors=True).eval()
        except (OSError, ValueError) as error:
            raise MissingTargetError(
                ErrorKind.WEIGHTS_MISSING, source, f"no CLIP checkpoint can be loaded: {error}"
            ) from error
        if not isinstance(model, CLIPModel | SiglipModel):
            message = f"is a {type(model).__name__}: want CLIP or SigLIP"
            raise MissingTargetError(ErrorKind.WEIGHTS_MISSING, source, message)
        self._pads = isinstance(model, SiglipModel)
        self.source = source
        self.digest = digest_of(digests)
        self.temperature = float(torch.exp(-model.logit_scale.detach()))
        del model.vision_model  # images are never encoded here
        self._model: Any = model

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dimension"]:
        """Return the unit embedding of each text.

        Raises:
            ValueError: If a text has more tokens than the encoder reads.
        """
        text_config: Any = self._model.config.text_config
        most = text_config.max_position_embeddings
        padding = {"padding": "max_length", "max_length": most} if self._pads else {"padding": True}
        tokens = self._tokenizer(list(texts), return_tensors="pt", **padding)
        check_tokens(texts, tokens["attention_mask"], most)
        if self._pads:  # SigLIP reads the last of a fixed number of tokens, and was trained without a mask
            embeddings = self._model.text_model(input_ids=tokens["input_ids"]).pooler_output
            return torch.nn.functional.normalize(embeddings.float(), dim=-1).numpy()
        pooled = self._model.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], return_dict=True
        ).pooler_output
        embeddings = self._model.text_projection(pooled)
        return torch.nn.functional.normalize(embeddings.float(), dim=-1).numpy()


def check_tokens(texts: Sequence[str], attention_mask: Int[Tensor, "texts tokens"], most: int) -> None:
    """Refuse texts that do not fit: cut short, two that differ at the end would be one.

    Args:
        texts: The texts.
        attention_mask: 1 for each token of a text, as its tokenizer gives it.
        most: Number of tokens that the encoder reads, begin and end among them.

    Raises:
        ValueError: If a text is longer.
    """
    for text, count in zip(texts, attention_mask.sum(dim=1).tolist(), strict=True):
        if count > most:
            raise ValueError(f"a text of {count} tokens, want <= {most}: {text[:60]!r}")


def class_cosine(
    concept_cosine: Float[np.ndarray, "n concepts"], concept_classes: Sequence[int]
) -> Float[np.ndarray, "n classes"]:
    """Return each class's cosine, which is that of its best concept."""
    owner = np.asarray(concept_classes)
    return np.stack([concept_cosine[:, owner == index].max(axis=1) for index in range(int(owner.max()) + 1)], axis=1)


def class_probability(cosine: Float[np.ndarray, "n classes"], temperature: float) -> Float[np.ndarray, "n classes"]:
    """Return the softmax of the cosines at a temperature; rows with a NaN stay NaN."""
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    logit = (cosine - cosine.max(axis=1, keepdims=True)) / temperature
    weight = np.exp(logit)
    return weight / weight.sum(axis=1, keepdims=True)


def fit_softmax_temperature(
    cosine: Float[np.ndarray, "n classes"], labels: Sequence[int] | np.ndarray, *, low: float = 1e-3, high: float = 1.0
) -> float:
    """Return the temperature with the smallest log loss, found on training scenes.

    Args:
        cosine: Cosines of labelled features with each class.
        labels: True class of each row.
        low: Smallest temperature tried.
        high: Largest temperature tried.

    Raises:
        ValueError: If there is nothing to fit.
    """
    target = np.asarray(labels, dtype=np.int64)
    if target.size == 0 or target.size != len(cosine):
        raise ValueError(f"want one label per row and at least one, got {target.size} for {len(cosine)}")
    logits = cosine.astype(np.float64)
    chosen = logits[np.arange(len(logits)), target]
    peak = logits.max(axis=1)

    def loss(log_temperature: float) -> float:
        temperature = np.exp(log_temperature)
        log_sum = peak / temperature + np.log(np.exp((logits - peak[:, None]) / temperature).sum(axis=1))
        return float(np.mean(log_sum - chosen / temperature))

    found: Any = minimize_scalar(loss, bounds=(np.log(low), np.log(high)), method="bounded")
    return float(np.exp(found.x))
