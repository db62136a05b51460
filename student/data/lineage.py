"""Checks on what the stores of a training set descend from."""

import functools
from collections.abc import Callable, Iterable

from storage.errors import ErrorKind, ProvenanceMismatchError
from storage.kinds import Kind
from storage.stores.lineage import walk
from storage.stores.provenance import InputVersion
from storage.stores.versioned import Home, StoreVersion

_FITTED = "fitted_frames"
"""Figure of a version that was fitted to one scene: the frames that it learned from."""


def check_consistent(home: Home, versions: Iterable[StoreVersion]) -> None:
    """Check that stores read together descend from the same version of every ancestor they share.

    Otherwise a depth map of one ingest could be read beside the images of another, or features of two scenes could be
    reduced with different bases, without any error.

    Raises:
        ProvenanceMismatchError: If they do not. It names the ancestor, its two digests and their descendants.
    """
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    inputs_of = _inputs_of(home)
    for version in versions:
        for _, ancestor in walk([version.as_input], inputs_of):
            key = (ancestor.kind, ancestor.partition)
            digest, descendant = seen.setdefault(key, (ancestor.digest, str(version)))
            if digest != ancestor.digest:
                raise ProvenanceMismatchError(
                    ErrorKind.DIGEST_MISMATCH,
                    "/".join(key),
                    f"{version} was made from {ancestor.digest[:12]}, {descendant} from {digest[:12]}",
                )


def check_held_out(home: Home, versions: Iterable[StoreVersion], held_out: Iterable[int]) -> None:
    """Check that no teacher of a scene was fitted to frames of it that are held out from the student.

    Such a teacher has seen what the student is judged on, and shows it to the student from the frames around.

    Args:
        home: Home of the stores.
        versions: Stores of one scene that the student reads.
        held_out: Frames of the scene that it must not learn from.

    Raises:
        ProvenanceMismatchError: If a teacher was, or if its version does not say or is gone. It names the teacher and
            the frames.
    """
    withheld = set(held_out)
    if not withheld:
        return
    for _, ancestor in walk([version.as_input for version in versions], _inputs_of(home)):
        found = home.find(ancestor.kind, ancestor.partition, ancestor.digest)
        fitted = None if found is None else home.metrics(found).get(_FITTED)
        key = f"{ancestor.kind}/{ancestor.partition}"
        if fitted is None and ancestor.kind == Kind.NERF_TEACHER:
            raise ProvenanceMismatchError(
                ErrorKind.TARGET_MISSING,
                key,
                f"version {ancestor.digest[:12]} {'is gone' if found is None else 'does not say its fitted frames'}, "
                f"but {len(withheld)} frames are held out from the student: fit the scene again",
            )
        if seen := sorted(withheld & set(fitted or ())):
            raise ProvenanceMismatchError(
                ErrorKind.TARGET_FORBIDDEN,
                key,
                f"version {ancestor.digest[:12]} was fitted to frames {seen}, which are held out from the student: "
                "want a field with nerf.fit_all_frames false and the holdout_every of the split",
            )


def _inputs_of(home: Home) -> Callable[[InputVersion], tuple[InputVersion, ...]]:
    @functools.cache
    def inputs_of(item: InputVersion) -> tuple[InputVersion, ...]:
        found = home.find(item.kind, item.partition, item.digest)
        # An ancestor may have been deleted; its own ancestors are then unknown.
        return () if found is None else home.provenance(found).inputs

    return inputs_of
