"""Train the demo Segformer: supervised semantics under Cityscapes' train ids."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import SegformerForSemanticSegmentation, SegformerImageProcessorPil

from storage.taxonomy import CITYSCAPES_VOID, cityscapes_table
from teachers.demo_training import architectures
from teachers.demo_training.loop import train
from teachers.demo_training.renders import RenderSet
from teachers.demo_training.views import ViewSampler, reduced_precision
from teachers.image.image_batches import normalised

STEPS = 2400
_BATCH_SIZE = 8


def train_segformer(training: RenderSet, *, seed: int, steps: int = STEPS) -> SegformerForSemanticSegmentation:
    """Return a Segformer trained on the classes of Cityscapes; pixels of other classes are ignored."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = architectures.segformer().train()
    processor = SegformerImageProcessorPil()
    table = torch.from_numpy(cityscapes_table().astype(np.int64))
    sampler = ViewSampler(
        training, batch_size=_BATCH_SIZE, multiple=32, smallest=0.35, steps=steps, generator=generator
    )

    def loss_of_step(step: int) -> Tensor:
        view = sampler.view(sampler.next_batch(step), step)
        with reduced_precision():
            logits = model(normalised(view.images, processor)).logits
        # The network answers at a quarter of the input's size; so are the labels taken.
        labels = functional.interpolate(view.semantics[:, None].float(), size=logits.shape[-2:], mode="nearest-exact")
        return functional.cross_entropy(logits.float(), table[labels[:, 0].long()], ignore_index=CITYSCAPES_VOID)

    train("segformer", model.parameters(), loss_of_step, steps=steps, learning_rate=1.2e-3)
    return model.eval()
