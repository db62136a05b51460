"""Wrong content in the place of a target is not frozen, whatever its gate's record says."""

from typing import Any

import pytest

from storage.errors import ErrorKind
from storage.kinds import KINDS
from storage.stores.versioned import reuse
from student.config import TrainingSetConfig
from student.experiments.substitutions import SUBSTITUTIONS, refusal, substitute


def training_set(kind: str) -> TrainingSetConfig:
    kinds = tuple(dict.fromkeys(("scene", "input_images", kind)))
    return TrainingSetConfig(train_scenes=("yard.a",), kinds=kinds)


@pytest.mark.parametrize("name", SUBSTITUTIONS)
def test_what_was_not_gated_is_not_frozen(shared_world: Any, name: str) -> None:
    home, substitution = shared_world.home, SUBSTITUTIONS[name]
    config = training_set(substitution.kind)
    for is_forged in (False, True) if substitution.shows else (False,):
        sound = substitute(home, substitution, "yard.a", "yard.b", is_forged=is_forged)
        refused = refusal(home, "substituted", config)
        reuse(home, home.provenance(sound))
        by_record = KINDS[substitution.kind].is_gated and not is_forged
        assert refused.partition(":")[0] == (ErrorKind.DIGEST_MISMATCH if by_record else ErrorKind.TARGET_UNSOUND)
    assert home.latest("training_set", "substituted") is None


def test_sound_targets_are_frozen(shared_world: Any) -> None:
    for kind in ("teacher_depth", "virtual_views", "sky_mask", "clip_features"):
        assert not refusal(shared_world.home, f"sound-{kind}", training_set(kind))
