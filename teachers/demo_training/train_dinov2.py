"""Train the demo DINOv2: self-distillation between views, masked patches, and a supervised contrastive term.

The first two terms are DINOv2's own objective at a very small scale: a student sees augmented views with hidden
patches and must predict what a slowly moving average of itself says about the whole views. A few hundred images are
too few for that alone to find objects, so patches of one class are also drawn together. The model card says so.
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
from teachers.demo_training.views import ViewSampler, reduced_precision
from teachers.image_batches import normalised

STEPS = 1200
_BATCH_SIZE = 6
_PROTOTYPES = 512
_STUDENT_TEMPERATURE, _TEACHER_TEMPERATURE = 0.1, 0.05
_MASKED_SHARE = 0.35
_CENTRE_MOMENTUM = 0.9
_CONTRAST_TEMPERATURE = 0.1
_CONTRASTED_PATCHES = 768


def dinov2_processor() -> BitImageProcessorPil:
    """Return DINOv2's own preprocessing."""
    return BitImageProcessorPil(
        image_mean=list(IMAGENET_DEFAULT_MEAN),
        image_std=list(IMAGENET_DEFAULT_STD),
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
    )


class PrototypeHead(nn.Module):
    """Scores of a token against learned prototypes, as cosines."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.prototypes = nn.Parameter(torch.randn(_PROTOTYPES, width))

    def forward(self, tokens: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch prototypes"]:
        """Return the cosine with each prototype."""
        return functional.normalize(self.layers(tokens), dim=-1) @ functional.normalize(self.prototypes, dim=-1).T


class _Branch(nn.Module):
    """A backbone with its head; once trained by gradients, once as a moving average."""

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
    """Return the averaged teacher of a self-distillation; ``supervised_weight`` 0 leaves labels out altogether."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    student = _Branch(architectures.dinov2()).train()
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    contrast = nn.Linear(student.backbone.config.hidden_size, 64)
    centre = torch.zeros(2, _PROTOTYPES)
    processor = dinov2_processor()
    sampler = ViewSampler(
        training,
        batch_size=_BATCH_SIZE,
        multiple=architectures.PATCH_SIZE,
        smallest=0.4,
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
            contrasted = _supervised_contrast(contrast(tokens[:, 1:][~is_hidden]), labels[~is_hidden], generator)
            loss = loss + supervised_weight * contrasted
        _update_centre(centre, targets)
        return loss

    def follow(step: int) -> None:
        momentum = 1 - (1 - 0.99) * 0.5 * (1 + math.cos(math.pi * step / steps))
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                slow.lerp_(fast, 1 - momentum)

    parameters = [*student.parameters(), *contrast.parameters()]
    train("dinov2", parameters, loss_of_step, steps=steps, learning_rate=8e-4, after_step=follow)
    return teacher.backbone.eval()


def _distillation(
    scores: Float[Tensor, "tokens prototypes"],
    targets: Float[Tensor, "tokens prototypes"],
    centre: Float[Tensor, " prototypes"],
) -> Float[Tensor, ""]:
    """Return the cross-entropy of the student's assignment with the teacher's centred, sharper one."""
    wanted = ((targets - centre) / _TEACHER_TEMPERATURE).softmax(dim=-1)
    return -(wanted * (scores / _STUDENT_TEMPERATURE).log_softmax(dim=-1)).sum(dim=-1).mean()


def _update_centre(centre: Float[Tensor, "2 prototypes"], targets: Float[Tensor, "batch tokens prototypes"]) -> None:
    means = torch.stack([targets[:, 0].mean(dim=0), targets[:, 1:].mean(dim=(0, 1))])
    centre.lerp_(means, 1 - _CENTRE_MOMENTUM)


def _supervised_contrast(
    vectors: Float[Tensor, "patches width"], labels: Int[Tensor, " patches"], generator: torch.Generator
) -> Float[Tensor, ""]:
    """Return the contrastive loss whose positives are all other patches of the same class."""
    known = torch.nonzero(labels != MIXED).flatten()
    chosen = known[torch.randperm(len(known), generator=generator)[:_CONTRASTED_PATCHES]]
    vectors, labels = functional.normalize(vectors[chosen], dim=-1), labels[chosen]
    itself = torch.eye(len(chosen), dtype=torch.bool)
    similarity = (vectors @ vectors.T / _CONTRAST_TEMPERATURE).masked_fill(itself, -1e4)
    is_positive = (labels[:, None] == labels[None]) & ~itself
    log_probability = similarity.log_softmax(dim=-1)
    positives = is_positive.sum(dim=-1)
    per_patch = -(log_probability * is_positive).sum(dim=-1) / positives.clamp_min(1)
    # Every class weighs the same, or road and sky would be all the model learns to tell apart.
    weight = 1.0 / torch.bincount(labels, minlength=256)[labels] * (positives > 0)
    return (per_patch * weight).sum() / weight.sum().clamp_min(1e-9)
