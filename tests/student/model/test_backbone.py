"""Parts of the image encoder."""

import torch

from student.model.backbone import instance_norm


def test_channels_of_images_are_normalised_as_pytorch_does_it():
    torch.manual_seed(0)
    x = (3.0 * torch.randn(2, 5, 7, 4) + 2.0).requires_grad_()
    probe = torch.randn_like(x)
    ours, expected = instance_norm(x), torch.nn.functional.instance_norm(x)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(torch.autograd.grad(ours, x, probe), torch.autograd.grad(expected, x, probe))
