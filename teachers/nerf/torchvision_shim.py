"""Make torchvision importable beside a CPU-only torch, before nerfstudio imports it.

The registry's torchvision wheel is built for CUDA; next to a CPU torch its compiled operators do not load, and its
Python side then fails on import because it registers fake kernels for operators nobody declared. Declaring their
schemas is enough to import it. The operators themselves (``ops.nms``, ``io``) still fail when called: nothing here
calls them.
"""

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_libraries: list[torch.library.Library] = []
"""Declarations live as long as their library object."""


def declare_missing_operators() -> None:
    """Declare the torchvision operators that its Python side needs; does nothing where they exist."""
    if _libraries or hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _libraries.append(library)
