"""LPIPS from a local file, on random weights in the published layout."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from storage.errors import MissingTargetError, SourceDataError
from student.losses.perceptual import Lpips, MultiScaleDissimilarity, perceptual_distance

# Of torchvision's VGG-16: "M" halves the image.
VGG = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


def vgg_layers() -> nn.Sequential:
    layers: list[nn.Module] = []
    width = 3
    for size in VGG:
        if isinstance(size, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(width, size, 3, padding=1), nn.ReLU()]
            width = size
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def published() -> tuple[nn.Sequential, dict[str, Tensor]]:
    torch.manual_seed(0)
    features = vgg_layers()
    tensors = {f"features.{name}": value for name, value in features.state_dict().items()}
    for index, channels in enumerate((64, 128, 256, 512, 512)):
        tensors[f"lin{index}.model.1.weight"] = torch.rand(1, channels, 1, 1)
    return features, tensors


def saved(tensors: dict[str, Tensor], path: Path) -> Path:
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    return path


def test_the_distance_is_the_published_sum_over_five_depths(published, tmp_path: Path) -> None:
    features, tensors = published
    distance = perceptual_distance(saved(tensors, tmp_path / "lpips.safetensors"))
    assert isinstance(distance, Lpips)
    x, y = torch.rand(2, 2, 3, 32, 40)

    expected = torch.zeros(2)
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    maps = [(2 * image - 1 - shift) / scale for image in (x, y)]
    depths = iter(range(5))
    with torch.no_grad():
        for index, layer in enumerate(features):
            maps = [layer(image) for image in maps]
            if isinstance(layer, nn.ReLU) and isinstance(features[index + 1], nn.MaxPool2d):
                unit = [image / (image.norm(dim=1, keepdim=True) + 1e-10) for image in maps]
                weighted = tensors[f"lin{next(depths)}.model.1.weight"] * (unit[0] - unit[1]).square()
                expected += weighted.sum(dim=1).mean(dim=(1, 2))
    torch.testing.assert_close(distance(x, y), expected, rtol=1e-4, atol=1e-5)


def test_equal_images_are_no_distance_apart_and_weights_stay_frozen(published, tmp_path: Path) -> None:
    distance = Lpips(saved(published[1], tmp_path / "lpips.safetensors"))
    x, y = torch.rand(1, 3, 16, 16, requires_grad=True), torch.rand(1, 3, 16, 16)
    # Not exactly: the two halves of one batch may go through other vector instructions.
    assert distance(y, y).item() == pytest.approx(0.0, abs=1e-6)
    (gradient,) = torch.autograd.grad(distance(x, y).sum(), x)
    assert gradient.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_missing_or_other_weights_are_named(published, tmp_path: Path) -> None:
    with pytest.raises(MissingTargetError, match=r"nowhere\.safetensors"):
        perceptual_distance(tmp_path / "nowhere.safetensors")
    lacking = {name: value for name, value in published[1].items() if name != "lin3.model.1.weight"}
    with pytest.raises(SourceDataError, match=r"lin3\.model\.1\.weight"):
        Lpips(saved(lacking, tmp_path / "lacking.safetensors"))
    narrow = published[1] | {"features.0.weight": torch.zeros(64, 1, 3, 3)}
    with pytest.raises(SourceDataError, match=r"features\.0\.weight"):
        Lpips(saved(narrow, tmp_path / "narrow.safetensors"))
    broken = saved(published[1], tmp_path / "broken.safetensors")
    for content in (b"", broken.read_bytes()[:1000], (1 << 40).to_bytes(8, "little") + b"{}", b"[" * 100_000):
        broken.write_bytes(content)
        with pytest.raises(SourceDataError, match=r"broken\.safetensors: cannot be read"):
            perceptual_distance(broken)
    assert isinstance(perceptual_distance(None), MultiScaleDissimilarity)
