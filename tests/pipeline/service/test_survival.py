"""The whole service, really killed, on a few scenes."""

from pathlib import Path

import pytest

from pipeline.service.survival import prepare, survive
from storage.stores.versioned import Home

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(1500)]


def test_everything_is_made_once_whatever_is_killed(tmp_path: Path) -> None:
    home = Home(tmp_path)
    outcome = survive(home, prepare(home, 20), kills=1, pause_s=10.0, patience_s=1200.0)
    assert outcome.kills == {"run worker": 1, "code server": 1, "daemon": 1, "web server": 1}
    assert (outcome.made, outcome.duplicates, outcome.held_slots) == (20, 0, 0)
    assert outcome.backfill == "COMPLETED_SUCCESS"
    assert outcome.failed_runs == 1
    assert outcome.longest_notice_s < 60
