"""Progress of a step: now and then to Dagster's log, and live to the process that drives the run.

Every plain function of the pipeline reports ``(stage, fraction, figures)``; workers in another environment report the
same through Dagster Pipes. One ``ProgressLog`` receives both.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg
from dagster_pipes import PipesParams

from storage.progress import ProgressCallback
from teachers.nerf.task import KIND_OF

ProgressSink = Callable[[Mapping[str, Any]], None]
"""Function that receives one event: asset, partition, stage, fraction and figures."""

_SECONDS_BETWEEN_LOG_LINES = 15.0
_MAX_FIGURES = 6


class ProgressLog:
    """Receiver of all progress.

    Args:
        sink: Receives every event at once; None if nobody watches.
    """

    def __init__(self, sink: ProgressSink | None = None) -> None:
        self._sink = sink
        self._watched: tuple[str, str] = ("", "")

    def reporter(self, log: Any, asset: str, partition: str) -> ProgressCallback:  # noqa: ANN401 - Dagster's log manager
        """Return the callback of one asset and partition.

        Args:
            log: Dagster's logger of the step, which gets a line every 15 seconds.
            asset: Name of the asset.
            partition: Its partition, or the empty string.
        """
        self._watched = (asset, partition)
        last_line = time.monotonic()

        def report(stage: str, fraction: float, figures: Mapping[str, Any]) -> None:
            nonlocal last_line
            self.tell(asset, partition, stage, fraction, figures)
            if time.monotonic() - last_line >= _SECONDS_BETWEEN_LOG_LINES:
                last_line = time.monotonic()
                log.info(f"{partition} {stage}: {fraction:.0%} {spell_figures(figures)}".strip())

        return report

    def tell(self, asset: str, partition: str, stage: str, fraction: float, figures: Mapping[str, Any]) -> None:
        """Pass one event on."""
        if self._sink is not None:
            event = {"asset": asset, "partition": partition, "stage": stage, "fraction": float(fraction)}
            self._sink({**event, "figures": dict(figures)})

    def message_reader(self) -> dg.PipesMessageReader:
        """Return a Pipes message reader that passes progress on while the worker still runs."""
        return _LiveMessageReader(self)

    def from_worker(self, message: Mapping[str, Any]) -> None:
        """Pass on a message of a Pipes worker, in the form that ``teachers.nerf.worker`` writes."""
        if message.get("event") == "progress":
            own = ("event", "action", "stage", "fraction")
            figures = {name: value for name, value in message.items() if name not in own}
            asset, partition = KIND_OF[message["action"]], self._watched[1]
            self.tell(asset, partition, message["stage"], float(message["fraction"]), figures)


class _LiveMessageReader(dg.PipesTempFileMessageReader):
    """Message reader that passes custom messages on at once; Dagster's own keeps them until the worker has ended."""

    def __init__(self, progress: ProgressLog) -> None:
        super().__init__()
        self._progress = progress

    @contextmanager
    def read_messages(self, handler: Any) -> Iterator[PipesParams]:  # noqa: ANN401 - PipesMessageHandler is not public
        with super().read_messages(_Tap(handler, self._progress)) as params:  # type: ignore[arg-type]
            yield params


class _Tap:
    """Message handler that looks at each message before Dagster's own handler gets it."""

    def __init__(self, handler: Any, progress: ProgressLog) -> None:  # noqa: ANN401 - as above
        self._handler = handler
        self._progress = progress

    def handle_message(self, message: Mapping[str, Any]) -> None:
        payload = (message.get("params") or {}).get("payload")
        if message.get("method") == "report_custom_message" and isinstance(payload, Mapping):
            self._progress.from_worker(payload)
        self._handler.handle_message(message)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the handler has
        return getattr(self._handler, name)


def spell_figures(figures: Mapping[str, Any]) -> str:
    """Return the chief running figures on one line, numbers with three significant digits.

    Figures named ``group/name`` are left out; they are for plots.
    """
    chief = [(name, value) for name, value in figures.items() if value is not None and "/" not in name]
    return ", ".join(f"{name}={_spell(value)}" for name, value in chief[:_MAX_FIGURES])


def _spell(value: Any) -> str:  # noqa: ANN401 - any JSON value
    return f"{value:.3g}" if isinstance(value, float) else str(value)
