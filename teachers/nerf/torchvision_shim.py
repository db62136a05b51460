"""Make torchvision importable beside a CPU-only torch.

The registry's torchvision wheel is built for CUDA; next to a CPU torch its compiled operators do not load, and its
Python side then fails on import because it registers fake kernels for operators nobody declared. Declaring their
schemas is enough to import it. The operators themselves (``ops.nms``, ``io``) still fail when called: nothing here
calls them.

nerfstudio's own commands import torchvision before they look for any plugin, so this must act earlier. The project is
installed in nerfstudio's environment and names ``declare_missing_operators`` as an entry point of the group
``torch.backends``. Torch calls such entry points at the end of its own import, in every process, child processes
included. That needs no variable, no file beside the installed distribution and no patch of nerfstudio.
"""

from importlib.machinery import PathFinder
from importlib.util import find_spec
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_libraries: list[Any] = []
"""Declarations live as long as their library object."""


def declare_missing_operators() -> None:
    """Declare the torchvision operators that its Python side needs.

    Nothing is done where there is no torchvision, or where its compiled operators load. Whether they do is found by
    loading them: a declaration made before them would keep them from registering their own.
    """
    import torch  # not above: torch imports this module at the end of its own import

    if _libraries or (torchvision := find_spec("torchvision")) is None:
        return
    compiled = PathFinder.find_spec("_C", list(torchvision.submodule_search_locations or ()))
    if compiled is not None and compiled.origin is not None:
        try:
            torch.ops.load_library(compiled.origin)
        except OSError:
            pass  # built for another torch
        else:
            return
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _libraries.append(library)
