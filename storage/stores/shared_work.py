"""Resumable work of a home in a bucket: what one machine saved, for another to go on from.

A state is a folder of files. Its last file is copied last, so a state that has it is whole. A home in a folder needs
none of this: whoever goes on there finds the folder itself.
"""

import logging
import os
import shutil
from pathlib import Path

from storage.errors import HomeUnavailableError
from storage.stores.integrity import writing
from storage.stores.objects import LocalObjects
from storage.stores.versioned import Home

logger = logging.getLogger(__name__)


class SharedWork:
    """The copies in the bucket of the states of one work folder.

    Args:
        home: Home of the work.
        folder: Folder of the states on this machine, below ``home.work_folder``; states sort by their names.
        last: File that each state ends with.
    """

    def __init__(self, home: Home, folder: Path, *, last: str) -> None:
        name = folder.relative_to(home.root).as_posix()
        self._objects = None if isinstance(home.objects, LocalObjects) else home.objects.below(name)
        self._folder, self._last = folder, last

    def push(self) -> None:
        """Copy the states that the bucket lacks, then delete older ones that are gone here.

        An outage costs no more than the copies: they are made with a later state.
        """
        if self._objects is None:
            return
        here = sorted(path.name for path in self._folder.glob("[!.]*") if (path / self._last).is_file())
        try:
            there = self._whole()
            for state in [name for name in here if name not in there]:
                files = sorted(path.name for path in (self._folder / state).iterdir() if path.name != self._last)
                for file in (*files, self._last):
                    self._objects.write(f"{state}/{file}", (self._folder / state / file).read_bytes())
            for state in [name for name in there if here and name < here[0]]:
                self._delete(state)
        except HomeUnavailableError as error:
            logger.warning("%s: not copied into the bucket: %s", self._folder, error)

    def pull(self) -> None:
        """Copy the newest state of the bucket here, if there is none as new.

        Raises:
            StoreUnreachableError: If the bucket does not answer.
            OutOfCapacityError: If the disk is full.
        """
        if self._objects is None:
            return
        newest = max(self._whole(), default="")
        if not newest or any(path.name >= newest for path in self._folder.glob("[!.]*")):
            return
        logger.info("%s: %s comes from another machine", self._folder, newest)
        aside = self._folder / f".{newest}"
        with writing(str(self._folder)):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            for file in self._objects.sizes(newest):
                (aside / file).write_bytes(self._objects.read(f"{newest}/{file}"))
            os.replace(aside, self._folder / newest)

    def drop(self) -> None:
        """Delete all copies: what they were for is published, and what an outage leaves of them does no harm."""
        if self._objects is None:
            return
        try:
            for state in self._objects.folders():
                self._delete(state)
        except HomeUnavailableError as error:
            logger.warning("%s: copies stay in the bucket: %s", self._folder, error)

    def _whole(self) -> list[str]:
        assert self._objects is not None
        return [state for state in self._objects.folders() if self._last in self._objects.sizes(state)]

    def _delete(self, state: str) -> None:
        assert self._objects is not None
        for file in sorted(self._objects.sizes(state), key=lambda name: name != self._last):  # no longer whole at once
            self._objects.delete(f"{state}/{file}")
