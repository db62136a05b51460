"""Measure the demo models on held-out worlds, each beside a baseline without a model.

Every figure is measured through the pipeline's extractors, with the checkpoint on disk.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from storage.taxonomy import CITYSCAPES_LABELS, CITYSCAPES_VOID, Theme, cityscapes_table, classes_of_theme
from teachers.demo_training.architectures import PATCH_SIZE
from teachers.demo_training.patches import MIXED, patch_labels
from teachers.demo_training.renders import RenderSet
from teachers.image.clip import PROMPT_TEMPLATE, ClipFeatures
from teachers.image.depth_anything import DepthAnything
from teachers.image.dinov2 import Dinov2Features
from teachers.image.image_batches import network_size, resample
from teachers.image.sky import SkySegmenter

Figures = dict[str, float]
_BATCH = 8
_MAX_DEPTH = 80.0
_NEIGHBOURS = 20
_REMEMBERED_PATCHES = 8000


def sky_figures(model: SkySegmenter, views: RenderSet) -> Figures:
    """Return IoU of the sky, mean IoU of the Cityscapes classes that occur, and both for "road" everywhere."""
    table, num_labels = cityscapes_table(), len(CITYSCAPES_LABELS)
    confusion = np.zeros((num_labels, num_labels), np.int64)
    for images, part in _batches(views, model.config.input_short_side, model.multiple):
        predicted = resample(model.logits(images), height=views.semantics.shape[1], width=views.semantics.shape[2])
        truth = table[views.semantics[part]]
        known = truth != CITYSCAPES_VOID
        np.add.at(confusion, (truth[known], predicted.argmax(dim=1).numpy()[known]), 1)
    iou = _iou(confusion)
    occurs = confusion.sum(axis=1) > 0
    majority = int(confusion.sum(axis=1).argmax())
    guess = np.zeros_like(confusion)
    guess[:, majority] = confusion.sum(axis=1)
    return {
        "sky_iou": float(iou[CITYSCAPES_LABELS.index("sky")]),
        "mean_iou": float(iou[occurs].mean()),
        "pixel_accuracy": float(np.trace(confusion) / confusion.sum()),
        "num_classes": int(occurs.sum()),
        "chance_mean_iou": float(_iou(guess)[occurs].mean()),
        "chance_pixel_accuracy": float(confusion[majority].sum() / confusion.sum()),
    }


def depth_figures(model: DepthAnything, views: RenderSet) -> Figures:
    """Return AbsRel and δ1 of the model and of a constant, each after the best scale and shift of inverse depth."""
    errors: dict[str, list[float]] = {"abs_rel": [], "delta_1": [], "chance_abs_rel": [], "chance_delta_1": []}
    for images, part in _batches(views, model.config.input_short_side, model.multiple):
        _, inverse_depth = model.features_and_inverse_depth(images)
        size = {"height": views.semantics.shape[1], "width": views.semantics.shape[2]}
        predictions = resample(inverse_depth[:, None], **size)[:, 0].numpy()
        for predicted, depth in zip(predictions, views.camera_depth[part].astype(np.float64), strict=True):
            known = np.isfinite(depth) & (depth > 0.5) & (depth < _MAX_DEPTH)
            if known.sum() < 100:
                continue
            for prefix, values in (("", predicted[known]), ("chance_", np.zeros(int(known.sum())))):
                aligned = _aligned_depth(values, depth[known])
                ratio = np.maximum(aligned / depth[known], depth[known] / aligned)
                errors[f"{prefix}abs_rel"].append(float(np.mean(np.abs(aligned - depth[known]) / depth[known])))
                errors[f"{prefix}delta_1"].append(float(np.mean(ratio < 1.25)))
    return {name: float(np.mean(values)) for name, values in errors.items()}


def dinov2_figures(
    model: Dinov2Features, untrained: Dinov2Features, remembered: RenderSet, views: RenderSet, *, seed: int = 0
) -> Figures:
    """Return the accuracy of nearest-neighbour classes of patches, for the model and for an untrained one.

    Args:
        model: Model to judge.
        untrained: Model of the same architecture, randomly initialised.
        remembered: Views whose labelled patches are searched, from other worlds than ``views``.
        views: Views whose patches are classified.
        seed: Seed of the choice of remembered patches.
    """
    figures: Figures = {}
    for prefix, judged in (("", model), ("untrained_", untrained)):
        bank, bank_labels = _labelled_patches(judged, remembered)
        chosen = torch.randperm(len(bank), generator=torch.Generator().manual_seed(seed))[:_REMEMBERED_PATCHES]
        queries, labels = _labelled_patches(judged, views)
        predicted = _nearest_labels(queries, bank[chosen], bank_labels[chosen])
        figures[f"{prefix}knn_accuracy"] = float((predicted == labels).float().mean())
        figures[f"{prefix}knn_class_accuracy"] = _class_accuracy(predicted, labels)
        figures["chance_knn_accuracy"] = float(torch.bincount(labels).max() / len(labels))
        figures["num_classes"] = float(len(labels.unique()))
    figures["chance_knn_class_accuracy"] = 1.0 / figures["num_classes"]
    return figures


def clip_figures(model: ClipFeatures, views: RenderSet) -> Figures:
    """Return the accuracy of patches' nearest words, among all words of their theme."""
    figures: Figures = {}
    for theme in Theme:
        classes = [entry for entry in classes_of_theme(theme) if entry.name != "other"]
        texts = model.text_embeddings([PROMPT_TEMPLATE.format(word=entry.words[0]) for entry in classes])
        patches, labels = _labelled_patches(model, views.chosen(views.is_airside == (theme is Theme.AIRSIDE)))
        position = {entry.class_id: index for index, entry in enumerate(classes)}
        known = torch.tensor([int(label) in position for label in labels])
        truth = torch.tensor([position[int(label)] for label in labels[known]])
        predicted = (patches[known] @ texts.T).argmax(dim=1)
        confusion = np.zeros((len(classes), len(classes)), np.int64)
        np.add.at(confusion, (truth.numpy(), predicted.numpy()), 1)
        occurs = confusion.sum(axis=1) > 0
        figures[f"{theme}_accuracy"] = float((predicted == truth).float().mean())
        figures[f"{theme}_mean_iou"] = float(_iou(confusion)[occurs].mean())
        figures[f"{theme}_class_accuracy"] = _class_accuracy(predicted, truth)
        figures[f"{theme}_chance_accuracy"] = 1.0 / len(classes)
        figures[f"{theme}_majority_accuracy"] = float(confusion.sum(axis=1).max() / confusion.sum())
        figures[f"{theme}_num_words"] = len(classes)
    return figures


def _batches(views: RenderSet, short_side: int, multiple: int):  # noqa: ANN202 - a generator of pairs
    size = network_size((views.image.shape[1], views.image.shape[2]), short_side=short_side, multiple=multiple)
    for start in range(0, len(views), _BATCH):
        part = slice(start, min(start + _BATCH, len(views)))
        images = torch.from_numpy(np.array(views.image[part])).permute(0, 3, 1, 2).float()
        resized = resample(images, height=size[0], width=size[1]).round().clamp(0, 255).to(torch.uint8)
        yield resized.permute(0, 2, 3, 1).numpy(), part


def _labelled_patches(
    model: Dinov2Features | ClipFeatures, views: RenderSet
) -> tuple[Float[Tensor, "patches features"], Int[Tensor, " patches"]]:
    """Return the unit features and class ids of every patch that one class fills."""
    features, labels = [], []
    rows, columns = (side // PATCH_SIZE for side in views.semantics.shape[1:])
    for images, part in _batches(views, model.config.input_short_side, model.multiple):
        maps = resample(model.dense_features(images), height=rows, width=columns)
        named = patch_labels(torch.from_numpy(np.array(views.semantics[part])), PATCH_SIZE).flatten()
        vectors = functional.normalize(maps.flatten(2).transpose(1, 2).flatten(0, 1), dim=-1)
        features.append(vectors[named != MIXED])
        labels.append(named[named != MIXED])
    return torch.cat(features), torch.cat(labels)


def _nearest_labels(
    queries: Float[Tensor, "queries features"],
    bank: Float[Tensor, "patches features"],
    bank_labels: Int[Tensor, " patches"],
) -> Int[Tensor, " queries"]:
    """Return the class that the nearest patches vote for, weighted by similarity."""
    result = []
    for part in queries.split(2048):
        similarity, index = (part @ bank.T).topk(min(_NEIGHBOURS, len(bank)), dim=1)
        votes = torch.zeros(len(part), 256).scatter_add_(1, bank_labels[index], (similarity / 0.07).exp())
        result.append(votes.argmax(dim=1))
    return torch.cat(result)


def _class_accuracy(predicted: Int[Tensor, " patches"], labels: Int[Tensor, " patches"]) -> float:
    """Return the mean over classes of the share of correctly classified patches."""
    return float(np.mean([float((predicted[labels == c] == c).float().mean()) for c in labels.unique()]))


def _iou(confusion: Int[np.ndarray, "labels labels"]) -> Float[np.ndarray, " labels"]:
    hit = np.diag(confusion)
    return hit / np.maximum(confusion.sum(axis=0) + confusion.sum(axis=1) - hit, 1)


def _aligned_depth(
    inverse: Float[np.ndarray, " pixels"], depth: Float[np.ndarray, " pixels"]
) -> Float[np.ndarray, " pixels"]:
    """Return depths, metres, after the least-squares scale and shift of inverse depth; a constant stays one."""
    design = np.stack([inverse, np.ones_like(depth)], axis=1).astype(np.float64)
    solution, *_ = np.linalg.lstsq(design, 1.0 / depth, rcond=None)
    return 1.0 / np.clip(design @ solution, 1.0 / _MAX_DEPTH, 1.0 / 0.5)
