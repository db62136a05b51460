"""Train the demo CLIP with captions of crops and with words of patches.

CLIP's own objective matches whole images with captions. Here each image is a crop around an object, and its caption is
one sentence about it. In addition, every patch of one clear class must choose that class's caption among those of all
classes. It does so through the path of the dense features, so that words match the right places.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from storage.taxonomy import SemanticClass
from teachers.demo_training import architectures
from teachers.demo_training.augment import jitter_colours
from teachers.demo_training.captions import TEMPLATES, build_tokenizer, caption_classes
from teachers.demo_training.loop import train
from teachers.demo_training.patches import patch_labels
from teachers.demo_training.renders import RenderSet
from teachers.demo_training.views import ViewSampler, fast_attention, reduced_precision
from teachers.image.clip import dense_embeddings, text_embeddings
from teachers.image.image_batches import normalised

STEPS = 6000
_BATCH_SIZE = 8
_CROP_SIDE = 112
_CROP_WEIGHT = 0.5
_MAX_LOGIT_SCALE = 4.6


def train_clip(training: RenderSet, *, seed: int, steps: int = STEPS) -> tuple[CLIPModel, CLIPTokenizer]:
    """Return a CLIP and its tokenizer."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    tokenizer = build_tokenizer()
    model = fast_attention(architectures.clip(tokenizer)).train()
    processor = CLIPImageProcessorPil()
    classes = caption_classes()
    class_index = torch.full((257,), -1)  # the last entry serves the label of mixed patches, which is -1
    for index, entry in enumerate(classes):
        class_index[entry.class_id] = index
    sampler = ViewSampler(
        training,
        batch_size=_BATCH_SIZE,
        multiple=architectures.PATCH_SIZE,
        smallest=0.4,
        colour_strength=0.6,
        steps=steps,
        generator=generator,
    )

    def loss_of_step(step: int) -> Tensor:
        batch = sampler.next_batch(step)
        tokens = tokenizer(_captions(classes, generator), padding=True, return_tensors="pt")
        texts = functional.normalize(text_embeddings(model, tokens.input_ids, tokens.attention_mask), dim=-1)
        scale = torch.as_tensor(model.logit_scale).clamp(max=_MAX_LOGIT_SCALE).exp()

        view = sampler.view(batch, step)
        labels = class_index[patch_labels(view.semantics, architectures.PATCH_SIZE).flatten()]
        with reduced_precision():
            dense = dense_embeddings(model, normalised(view.images, processor))
        dense = dense.float().flatten(2).transpose(1, 2).flatten(0, 1)[labels >= 0]
        logits = scale * functional.normalize(dense, dim=-1) @ texts.T
        loss = balanced_cross_entropy(logits, labels[labels >= 0])

        crops, crop_labels = _object_crops(training, batch, class_index, generator)
        with reduced_precision():
            seen = model.vision_model(
                normalised(jitter_colours(crops, generator, strength=0.6), processor), interpolate_pos_encoding=True
            )
            whole = model.visual_projection(seen.pooler_output)
        logits = scale * functional.normalize(whole.float(), dim=-1) @ texts.T
        return loss + _CROP_WEIGHT * functional.cross_entropy(logits, crop_labels)

    train("clip", model.parameters(), loss_of_step, steps=steps, learning_rate=1.2e-3)
    return model.eval(), tokenizer


def _captions(classes: tuple[SemanticClass, ...], generator: torch.Generator) -> list[str]:
    """Return one sentence per class: a random word of the class in a random template."""

    def pick(options: tuple[str, ...]) -> str:
        return options[int(torch.randint(len(options), (), generator=generator))]

    return [pick(TEMPLATES).format(word=pick(entry.words)) for entry in classes]


def balanced_cross_entropy(
    logits: Float[Tensor, "patches classes"], labels: Int[Tensor, " patches"]
) -> Float[Tensor, ""]:
    """Return the cross-entropy with classes weighted by the inverse square root of their frequency in the batch."""
    weight = torch.bincount(labels, minlength=logits.shape[1]).clamp_min(1).float().rsqrt()
    return functional.cross_entropy(logits, labels, weight=weight)


def _object_crops(
    training: RenderSet, batch: Int[np.ndarray, " batch"], class_index: Int[Tensor, " ids"], generator: torch.Generator
) -> tuple[Float[Tensor, "batch 3 side side"], Int[Tensor, " batch"]]:
    """Return one square crop per image, centred on a random pixel of a random class in it, and that class."""
    images = torch.from_numpy(training.image[batch]).permute(0, 3, 1, 2).float() / 255.0
    semantics = torch.from_numpy(training.semantics[batch])
    height, width = images.shape[-2:]
    crops, labels = [], []
    for image, labelled in zip(images, semantics, strict=True):
        present = [value for value in torch.unique(labelled).tolist() if class_index[value] >= 0]
        value = present[int(torch.randint(len(present), (), generator=generator))]
        pixels = torch.nonzero(labelled == value)
        row, column = pixels[int(torch.randint(len(pixels), (), generator=generator))].tolist()
        side = int(torch.randint(40, min(height, width), (), generator=generator))
        top = min(max(0, row - side // 2), height - side)
        left = min(max(0, column - side // 2), width - side)
        cut = image[None, :, top : top + side, left : left + side]
        crops.append(functional.interpolate(cut, size=(_CROP_SIDE, _CROP_SIDE), mode="bilinear", antialias=True))
        labels.append(int(class_index[value]))
    return torch.cat(crops), torch.tensor(labels)
