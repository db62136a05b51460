"""Which accelerator a process works on: one of its own, while there are as many as processes.

A process that executes runs holds the lock of its device as long as it lives. The system frees the lock however the
process ends, so a killed run keeps no device. If all devices are held, the one with the fewest holders is shared. The
own device is made the first of those that CUDA shows, which is the one that programs use; the others stay visible,
because a student may be fitted on several.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from storage.errors import StoreLockedError
from storage.stores.locks import held

CUDA_VARIABLE = "CUDA_VISIBLE_DEVICES"


@contextmanager
def own_device(home: Path, devices: Sequence[str]) -> Iterator[str | None]:
    """Hold a device, and show it to this process and its children as the first one.

    It must be entered before CUDA is initialised: later, CUDA does not look at its variable any more.

    Args:
        home: A home's folder on this machine, whose processes share the devices.
        devices: All devices, as CUDA names them; with fewer than two there is nothing to share.

    Yields:
        The device, or None if there is nothing to share.
    """
    if len(devices) < 2:
        yield None
        return
    before = os.environ.get(CUDA_VARIABLE)
    with ExitStack() as stack:
        device = _take(home / "locks" / "devices", devices, stack)
        os.environ[CUDA_VARIABLE] = ",".join([device, *(other for other in devices if other != device)])
        try:
            yield device
        finally:
            if before is None:
                del os.environ[CUDA_VARIABLE]
            else:
                os.environ[CUDA_VARIABLE] = before


def _take(folder: Path, devices: Sequence[str], stack: ExitStack) -> str:
    """Lock the first device that nobody holds, or else the first that the fewest hold, until the stack is closed."""
    folder.mkdir(parents=True, exist_ok=True)
    for holder, device in ((holder, device) for holder in itertools.count() for device in devices):
        try:
            stack.enter_context(held(folder / f"{device.replace('/', '-')}.{holder}.lock", f"device {device}", 0.0))
        except StoreLockedError:
            continue
        return device
    raise AssertionError("unreachable: there is always one more holder")
