"""Train the demo DINOv2: self-distillation between views, masked patches, and a supervised contrastive term.

The first two terms are DINOv2's own objective at a very small scale. A student sees augmented views with hidden patches
and predicts the output of its own moving average on the whole views. A few hundred images are too few to find objects
by that alone, so a third term makes patches of one class similar. The model card says so.
"""

import copy
import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import BitImageProcessorPil, Dinov2Model
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from teachers.demo_training import architectures
from teachers.demo_training.loop import train
from teachers.demo_training.patches import MIXED, patch_labels
from teachers.demo_training.renders import RenderSet
from teachers.demo_training.views import ViewSampler, fast_attention, reduced_precision
from teachers.image.image_batches import normalised

STEPS = 2000
_BATCH_SIZE = 6
_PROTOTYPES = 512
_STUDENT_TEMPERATURE, _TEACHER_TEMPERATURE = 0.1, 0.05
_MASKED_SHARE = 0.35
_CENTRE_MOMENTUM = 0.9
_CONTRAST_TEMPERATURE = 0.1
_CONTRAST_WIDTH = 64


def dinov2_processor() -> BitImageProcessorPil:
    """Return DINOv2's own preprocessing."""
    return BitImageProcessorPil(
        image_mean=list(IMAGENET_DEFAULT_MEAN),
        image_std=list(IMAGENET_DEFAULT_STD),
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
    )


class PrototypeHead(nn.Module):
    """Head that scores a token against learned prototypes, by cosine."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.prototypes = nn.Parameter(torch.randn(_PROTOTYPES, width))

    def forward(self, tokens: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch prototypes"]:
        """Return the cosine with each prototype."""
        return functional.normalize(self.layers(tokens), dim=-1) @ functional.normalize(self.prototypes, dim=-1).T


class _Branch(nn.Module):
    """Backbone with its head. One instance is trained by gradients, the other is its moving average."""

    def __init__(self, backbone: Dinov2Model) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = PrototypeHead(backbone.config.hidden_size)

    def forward(
        self, pixels: Float[Tensor, "batch 3 height width"], is_hidden: Bool[Tensor, "batch patches"] | None = None
    ) -> tuple[Float[Tensor, "batch tokens width"], Float[Tensor, "batch tokens prototypes"]]:
        tokens = self.backbone(pixels, bool_masked_pos=is_hidden).last_hidden_state
        return tokens, self.head(tokens)


def train_dinov2(training: RenderSet, *, seed: int, steps: int = STEPS, supervised_weight: float = 1.0) -> Dinov2Model:
    """Return the averaged teacher of a self-distillation; with ``supervised_weight`` 0 it uses no labels."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    student = _Branch(fast_attention(architectures.dinov2())).train()
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    contrast = nn.Linear(student.backbone.config.hidden_size, _CONTRAST_WIDTH)
    anchors = nn.Parameter(torch.randn(256, _CONTRAST_WIDTH))
    centre = torch.zeros(2, _PROTOTYPES)
    processor = dinov2_processor()
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
        views = [sampler.view(batch, step) for _ in range(2)]
        pixels = normalised(torch.cat([view.images for view in views]), processor)
        labels = patch_labels(torch.cat([view.semantics for view in views]), architectures.PATCH_SIZE).flatten(1)
        is_hidden = torch.rand(labels.shape, generator=generator) < _MASKED_SHARE
        with torch.no_grad(), reduced_precision():
            _, targets = teacher(pixels)
        with reduced_precision():
            tokens, scores = student(pixels, is_hidden)
        tokens, scores, targets = tokens.float(), scores.float(), targets.float()
        first, second = targets.chunk(2)
        loss = _distillation(scores[:, 0], torch.cat([second, first])[:, 0], centre[0])
        loss = loss + _distillation(scores[:, 1:][is_hidden], targets[:, 1:][is_hidden], centre[1])
        loss = loss / math.log(_PROTOTYPES)
        if supervised_weight > 0:
            is_clear = labels != MIXED
            contrasted = _supervised_contrast(contrast(tokens[:, 1:][is_clear]), anchors, labels[is_clear])
            loss = loss + supervised_weight * contrasted
        _update_centre(centre, targets)
        return loss

    def follow(step: int) -> None:
        momentum = 1 - (1 - 0.99) * 0.5 * (1 + math.cos(math.pi * step / steps))
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                slow.lerp_(fast, 1 - momentum)

    parameters = [*student.parameters(), *contrast.parameters(), anchors]
    train("dinov2", parameters, loss_of_step, steps=steps, learning_rate=1.2e-3, after_step=follow)
    return teacher.backbone.eval()


def _distillation(
    scores: Float[Tensor, "tokens prototypes"],
    targets: Float[Tensor, "tokens prototypes"],
    centre: Float[Tensor, " prototypes"],
) -> Float[Tensor, ""]:
    """Return the cross-entropy of the student's assignments with the teacher's centred, sharpened ones."""
    wanted = ((targets - centre) / _TEACHER_TEMPERATURE).softmax(dim=-1)
    return -(wanted * (scores / _STUDENT_TEMPERATURE).log_softmax(dim=-1)).sum(dim=-1).mean()


def _update_centre(centre: Float[Tensor, "2 prototypes"], targets: Float[Tensor, "batch tokens prototypes"]) -> None:
    means = torch.stack([targets[:, 0].mean(dim=0), targets[:, 1:].mean(dim=(0, 1))])
    centre.lerp_(means, 1 - _CENTRE_MOMENTUM)


def _supervised_contrast(
    vectors: Float[Tensor, "patches width"], anchors: Float[Tensor, "classes width"], labels: Int[Tensor, " patches"]
) -> Float[Tensor, ""]:
    """Return the contrastive loss of patches against one learned anchor per class; rare classes weigh more."""
    logits = functional.normalize(vectors, dim=-1) @ functional.normalize(anchors, dim=-1).T / _CONTRAST_TEMPERATURE
    weight = torch.bincount(labels, minlength=len(anchors)).clamp_min(1).float().rsqrt()
    return functional.cross_entropy(logits, labels, weight=weight)
