"""An interrupt ends a step: a retry policy does not begin it again."""

from pathlib import Path

import dagster as dg
import pytest
from dagster._core.errors import DagsterExecutionInterruptedError

from assets.failures import INFRASTRUCTURE_RETRIES, stops_retries
from storage.stores.versioned import Home


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, DagsterExecutionInterruptedError])
@pytest.mark.parametrize("was_asked_for", [True, False])
def test_an_interrupted_step_is_not_tried_again(
    tmp_path: Path, interrupt: type[BaseException], was_asked_for: bool
) -> None:
    tries: list[int] = []

    @dg.asset(retry_policy=INFRASTRUCTURE_RETRIES)
    def computes(context: dg.AssetExecutionContext) -> None:
        tries.append(1)
        if was_asked_for:
            context.instance.report_run_canceling(context.run)
        with stops_retries(Home(tmp_path), "x"):
            raise interrupt

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([computes], instance=instance, raise_on_error=False)
        ended = instance.get_run_by_id(result.run_id)
    assert tries == [1]
    assert ended is not None
    assert ended.status is (dg.DagsterRunStatus.CANCELED if was_asked_for else dg.DagsterRunStatus.FAILURE)
