"""Feed the images of a scene, of any size and aspect, to a network in batches of one size."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor
from torch.nn import functional
from transformers import BaseImageProcessor

from storage.scenes.store import SceneReader
from teachers.config import InferenceConfig, Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBatch:
    """Batch of images of one network size.

    Attributes:
        indices: Frame and camera index of each image.
        images: RGB images, resized to the network's size.
    """

    indices: tuple[tuple[int, int], ...]
    images: UInt8[np.ndarray, "batch height width 3"]


def network_size(image_size: tuple[int, int], *, short_side: int, multiple: int) -> tuple[int, int]:
    """Return the (height, width) to which an image is resized, in whole patches and nearly at its aspect.

    Args:
        image_size: Height and width of the image, pixels.
        short_side: Wanted length of the shorter side, pixels.
        multiple: Patch size; both sides become a multiple of it, at least one patch.
    """
    scale = short_side / min(image_size)
    height, width = (max(1, round(side * scale / multiple)) * multiple for side in image_size)
    return height, width


def iterate_batches(
    reader: SceneReader, frames: Iterable[int], *, short_side: int, multiple: int, batch_size: int
) -> Iterator[ImageBatch]:
    """Yield every camera's image of the given frames, each exactly once, in batches of one network size."""
    waiting: dict[tuple[int, int], list[tuple[tuple[int, int], np.ndarray]]] = {}
    for frame in frames:
        for camera in range(reader.num_cameras):
            size = network_size(reader.image_size(camera), short_side=short_side, multiple=multiple)
            bucket = waiting.setdefault(size, [])
            bucket.append(((frame, camera), reader.resized_image(frame, camera, height=size[0], width=size[1])))
            if len(bucket) == batch_size:
                yield _pack(waiting.pop(size))
    for bucket in waiting.values():
        yield _pack(bucket)


def resolve_device(inference: InferenceConfig, precision: Precision) -> tuple[torch.device, torch.dtype]:
    """Return the device and the number format of the forward pass.

    Raises:
        ValueError: If CUDA is asked for but absent, or a half format is asked for on the CPU.
    """
    if inference.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for and none is available")
    name = "cpu" if inference.device == "cpu" or not torch.cuda.is_available() else "cuda"
    if name == "cpu" and precision != "float32":
        raise ValueError(f"precision {precision} needs CUDA, and none is available")
    return torch.device(name), getattr(torch, precision)


def normalise(
    processor: BaseImageProcessor, images: UInt8[np.ndarray, "batch height width 3"]
) -> Float[Tensor, "batch 3 height width"]:
    """Return images, which have the network's size, scaled as the model's own processor does."""
    inputs = processor(
        list(images),
        do_resize=False,
        do_center_crop=False,
        input_data_format="channels_last",
        return_tensors="pt",
    )
    return inputs["pixel_values"]


def normalised(
    images: Float[Tensor, "batch 3 height width"], processor: BaseImageProcessor
) -> Float[Tensor, "batch 3 height width"]:
    """Return images in [0, 1] scaled as a processor does, differentiably, for training."""
    settings = processor.to_dict()
    mean, std = (torch.tensor(settings[name])[:, None, None] for name in ("image_mean", "image_std"))
    return (images - mean) / std


def resample(
    maps: Float[Tensor, "batch channels _ _"], *, height: int, width: int
) -> Float[Tensor, "batch channels height width"]:
    """Return float32 maps on another grid: bilinear, and antialiased where the grid becomes coarser."""
    maps = maps.float()
    if maps.shape[-2:] == (height, width):
        return maps
    return functional.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False, antialias=True)


def to_float16(values: Float[np.ndarray, "*shape"]) -> Float16[np.ndarray, "*shape"]:
    """Return values as float16; too large values become infinite, which the gate counts as not finite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16)


def _pack(bucket: list[tuple[tuple[int, int], np.ndarray]]) -> ImageBatch:
    return ImageBatch(indices=tuple(i for i, _ in bucket), images=np.stack([image for _, image in bucket]))
