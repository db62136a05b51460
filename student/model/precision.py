"""Contexts and number formats that keep geometry in full precision.

Under ``torch.autocast`` convolutions and linear layers run in half the bits. Geometry must not: bfloat16 resolves a
direction to half a degree, half a metre at 60 m. So matrix products on poses and rays are taken out of autocast here,
and the networks hand their results on in single precision.
"""

import torch
from torch import Tensor


def full_precision(like: Tensor) -> torch.autocast:
    """Return a context in which autocast is off on the device of ``like``."""
    return torch.autocast(like.device.type, enabled=False)


def product_dtype(*operands: Tensor) -> torch.dtype:
    """Return the number format in which a matrix product of these should run: autocast's, or their common one."""
    device_type = operands[0].device.type
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    dtype = operands[0].dtype
    for operand in operands[1:]:
        dtype = torch.promote_types(dtype, operand.dtype)
    return dtype
