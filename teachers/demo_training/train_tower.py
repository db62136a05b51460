"""Train the dense image tower of the demo CLIP: every place of a render must choose its class's sentence.

The texts are those of the CLIP as it is, whose text tower stays; so does the encoder, from ImageNet. The decoder
between them learns half of the time from renders and half from estranged ones, so that it serves both this project's
worlds and photographs.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from encoders.efficientnet import imagenet_weights
from storage.taxonomy import SemanticClass
from teachers.demo_training.augment import jitter_colours
from teachers.demo_training.captions import TEMPLATES, caption_classes
from teachers.demo_training.estrange import estranged
from teachers.demo_training.loop import shuffled_batches, train
from teachers.demo_training.renders import RenderSet
from teachers.demo_training.train_clip import balanced_cross_entropy
from teachers.demo_training.train_lite import lite_processor, scenery_of
from teachers.demo_training.views import reduced_precision
from teachers.image.clip import ClipFeatures
from teachers.image.image_batches import normalised
from teachers.image.lite import DenseTower, LiteConfig

STEPS = 3000
_BATCH_SIZE = 8
_WIDTHS = (128, 96, 64, 64)
_ESTRANGED_SHARE = 0.5
_NUM_IDS = 256


def train_tower(clip: ClipFeatures, training: RenderSet, *, seed: int, steps: int = STEPS) -> DenseTower:
    """Return the tower.

    Args:
        clip: The model whose texts it is trained against.
        training: Training images.
        seed: Seed of every random draw.
        steps: Number of updates.

    Raises:
        EnvironmentMissingError: If the package that brings the encoder's weights is not installed.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    sentences = Sentences(clip, caption_classes())
    tower = DenseTower(LiteConfig(widths=_WIDTHS, projection_dim=sentences.length)).train()
    tower.trunk.load_state_dict(imagenet_weights())
    processor = lite_processor()
    batches = shuffled_batches(len(training), _BATCH_SIZE, generator)

    def loss_of_step(step: int) -> Tensor:
        seen = scenery_of(training, next(batches), generator)
        is_estranged = float(torch.rand((), generator=generator)) < _ESTRANGED_SHARE
        images = estranged(seen, generator) if is_estranged else jitter_colours(seen.images, generator, strength=0.6)
        with reduced_precision():
            dense = tower(normalised(images, processor))
        places = functional.normalize(dense.float(), dim=1).flatten(2).transpose(1, 2).flatten(0, 1)
        size = (dense.shape[-2], dense.shape[-1])
        ids = functional.interpolate(seen.semantics[:, None].float(), size=size, mode="nearest-exact")[:, 0].long()
        labels = sentences.class_index[ids.flatten()]
        known = labels >= 0
        logits = clip.logit_scale * places[known] @ sentences.draw(generator).T
        return balanced_cross_entropy(logits, labels[known])

    train("dense tower", tower.parameters(), loss_of_step, steps=steps, learning_rate=1e-3, weight_decay=0.02)
    return tower.eval()


class Sentences:
    """Embeddings of every sentence about every class."""

    def __init__(self, clip: ClipFeatures, classes: tuple[SemanticClass, ...]) -> None:
        self.class_index = torch.full((_NUM_IDS,), -1)
        self._embeddings = []
        for index, entry in enumerate(classes):
            self.class_index[entry.class_id] = index
            told = [template.format(word=word) for word in entry.words for template in TEMPLATES]
            self._embeddings.append(clip.text_embeddings(told).clone())

    @property
    def length(self) -> int:
        """Return the length of an embedding."""
        return self._embeddings[0].shape[1]

    def draw(self, generator: torch.Generator) -> Float[Tensor, "classes features"]:
        """Return the embedding of a random sentence about each class."""
        return torch.stack([told[int(torch.randint(len(told), (), generator=generator))] for told in self._embeddings])
