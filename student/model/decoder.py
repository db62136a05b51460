"""Heads that turn rendered features into what is compared with targets: an image, foundation features, the sky."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, pixel_shuffle

from student.model.backbone import LEAKY_SLOPE
from student.model.config import DecoderConfig, FeatureHeadConfig, SkyHeadConfig

_DETAIL_CHANNELS = 12  # three colours of two by two pixels


class ImageDecoder(nn.Module):
    """Convolve rendered features and double their resolution (DistillNeRF Sec. 3.1).

    A linear read-out of the features themselves is added to what the convolutions say. So a lifted colour reaches the
    image from the first step, and so does lifted detail.

    Args:
        config: Sizes.
        in_channels: Channels of the rendered features, fine level first.
        reads_detail: Read how the four pixels of the image differ from the one of the map.
    """

    def __init__(self, config: DecoderConfig, in_channels: int, *, reads_detail: bool = False) -> None:
        super().__init__()
        width = config.width
        self.input = nn.Conv2d(in_channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(config.num_blocks))
        self.norms = nn.ModuleList(nn.GroupNorm(config.norm_groups, width) for _ in range(config.num_blocks))
        self.output = nn.Conv2d(width, 3, 3, padding=1)
        self.readout = nn.Conv2d(in_channels, 3, 1)
        nn.init.normal_(self.output.weight, std=1e-3)
        nn.init.zeros_(self.output.bias)  # pyright: ignore[reportArgumentType]
        self.detail = nn.Conv2d(in_channels, _DETAIL_CHANNELS, 1, bias=False) if reads_detail else None
        self._read_lifted_colour(in_channels)

    def _read_lifted_colour(self, in_channels: int) -> None:
        """Start as the inverse of lifting: colour in [-1, 1] sits in the first channels of both levels."""
        with torch.no_grad():
            if self.detail is not None:
                self.detail.weight.zero_()
                for channel in range(_DETAIL_CHANNELS):
                    self.detail.weight[channel, 3 + channel] = 0.5
            self.readout.weight.zero_()
            for channel in range(3):
                self.readout.weight[channel, channel] = 0.25
                self.readout.weight[channel, in_channels // 2 + channel] = 0.25
            self.readout.bias.fill_(0.5)  # pyright: ignore[reportOptionalMemberAccess]

    def forward(self, features: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n 3 height2 width2"]:
        """Return RGB around [0, 1], not clamped, of twice the size."""
        x = leaky_relu(self.input(features), LEAKY_SLOPE)
        last = len(self.blocks) - 1
        for index, (convolution, norm) in enumerate(zip(self.blocks, self.norms, strict=True)):
            if index == last:
                x = interpolate(x, scale_factor=2, mode="nearest")
            x = leaky_relu(norm(convolution(x)), LEAKY_SLOPE)
        base = interpolate(self.readout(features), scale_factor=2, mode="bilinear", align_corners=False)
        if self.detail is not None:
            base = base + pixel_shuffle(self.detail(features), 2)
        return (base + self.output(x)).float()


class FeatureHead(nn.Module):
    """A pointwise network from field features to one foundation model's, in [0, 1] (DistillNeRF Sec. 3.2).

    It is pointwise so that the same head reads a rendered map and a single voxel.
    """

    def __init__(self, config: FeatureHeadConfig, in_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_channels, config.hidden_width),
            nn.ReLU(),
            nn.Linear(config.hidden_width, config.hidden_width),
            nn.ReLU(),
            nn.Linear(config.hidden_width, config.channels),
        )

    def forward(self, features: Float[Tensor, "*shape channels"]) -> Float[Tensor, "*shape source_channels"]:
        """Map features, channels last."""
        return torch.sigmoid(self.logits(features)).float()

    def logits(self, features: Float[Tensor, "*shape channels"]) -> Float[Tensor, "*shape source_channels"]:
        """Return what the result is the sigmoid of."""
        return self.layers(features)


class VoxelFeatureHead(nn.Module):
    """Corrects what a feature head says of a voxel by what the occupancy head sees around it.

    A field holds nothing where no pixel ends, and little between the rows of its pixels. The nearest cell then speaks
    for a voxel, and that may be the road before a car. Until it is taught, it corrects nothing.
    """

    def __init__(self, config: FeatureHeadConfig, *, seen_width: int, reading_width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(seen_width + reading_width, config.voxel_width),
            nn.ReLU(),
            nn.Linear(config.voxel_width, config.voxel_width),
            nn.ReLU(),
            nn.Linear(config.voxel_width, config.channels),
        )
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, seen: Float[Tensor, "n seen"], nearest: Float[Tensor, "n reading"], logits: Float[Tensor, "n channels"]
    ) -> Float[Tensor, "n channels"]:
        """Return features in [0, 1].

        Args:
            seen: What the occupancy head sees in and around each voxel.
            nearest: What the nearest voxel holds that holds anything.
            logits: What the feature head says of that one.
        """
        return torch.sigmoid(logits + self.layers(torch.cat([seen, nearest], dim=1))).float()


class SkyHead(nn.Module):
    """The feature that a ray picks up at infinity: the scene's mean sky, corrected by direction.

    It follows the scene teacher, whose sky is a function of direction behind everything (EmerNeRF Eq. 3).
    """

    def __init__(self, config: SkyHeadConfig, channels: int) -> None:
        super().__init__()
        self.num_frequencies = config.num_frequencies
        self.direction = nn.Linear(3 + 6 * config.num_frequencies, config.hidden_width)
        self.scene = nn.Linear(channels, config.hidden_width)
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Linear(config.hidden_width, config.hidden_width),
            nn.ReLU(),
            nn.Linear(config.hidden_width, channels),
        )

    def forward(
        self,
        directions: Float[Tensor, "rays 3"],
        mean_sky: Float[Tensor, "batch channels"],
        batch_index: Int64[Tensor, " rays"],
    ) -> Float[Tensor, "rays channels"]:
        """Return the sky's feature along unit directions in the ego frame."""
        octaves = math.pi * 2.0 ** torch.arange(self.num_frequencies, device=directions.device)
        phase = (directions[:, None] * octaves[:, None]).flatten(1)
        encoded = torch.cat([directions, phase.sin(), phase.cos()], dim=1)
        by_scene = self.scene(mean_sky).index_select(0, batch_index)
        return mean_sky.index_select(0, batch_index) + self.layers(self.direction(encoded) + by_scene)
