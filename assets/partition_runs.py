"""Run one plain function for each partition of a Dagster run, and report each outcome to Dagster."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import dagster as dg
from dagster._core.definitions.data_version import (  # not exported, but what Dagster judges staleness by
    CODE_VERSION_TAG,
    DATA_VERSION_TAG,
    DEFAULT_DATA_VERSION,
    NULL_EVENT_POINTER,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)

from assets.failures import ends_when_told, stops_retries
from assets.metadata import describe
from pipeline.progress import ProgressLog
from pipeline.resources import HomeResource
from pipeline.run_config import HomeSelection, RunSelector
from storage.digests import digest_of
from storage.plain_markdown import plain_markdown
from storage.progress import ProgressCallback
from storage.stores.versioned import Home, Materialized, StoreVersion


class InputState(NamedTuple):
    """State of an upstream asset when something was made from it: its data version, and its latest event, if any."""

    data_version: str
    storage_id: int | None


Build = Callable[[Home, str, ProgressCallback], Materialized]
"""Function that finds or builds one partition: the home, the partition's key, a progress callback."""


LookUp = Callable[[Home, str, Mapping[str, Any]], str]
"""Function that looks one partition up and returns its data version.

It takes a home that builds nothing, the partition's key, and the configuration of the asset's step. It raises
``NothingBuiltError`` if anything is to be done.
"""

LOOK_UPS: dict[str, LookUp] = {}
"""How each asset is looked up without Dagster, by name; filled where assets are defined.

It is the asset's own function, on a home that builds nothing: what it finds is what a run of the asset would find.
"""

Make = Callable[[Home, str, HomeSelection, ProgressCallback], Materialized]
"""``Build`` with the selection of the run: the home, the partition's key, the selection, a progress callback."""


def partitioned_asset(
    *,
    deps: Sequence[str | dg.AssetDep] = (),
    description: str,
    selector: type[RunSelector] = RunSelector,
    **declared: Any,  # noqa: ANN401 - Dagster's own types
) -> Callable[[Make], dg.AssetsDefinition]:
    """Return a decorator that turns a function for one partition into an asset.

    Args:
        deps: Inputs of the asset.
        description: Description of the asset, for people.
        selector: Configuration class of the asset.
        declared: Arguments from ``assets.declarations.declare``.
    """

    def decorate(make: Make) -> dg.AssetsDefinition:
        @dg.asset(name=make.__name__, deps=deps, description=description, **declared)
        def asset(
            context: dg.AssetExecutionContext,
            config: selector,  # pyright: ignore[reportInvalidTypeForm]  # Dagster reads the schema off it, as any class
            home: HomeResource,
            progress: dg.ResourceParam[ProgressLog],
        ) -> Iterator[dg.MaterializeResult]:
            with ends_when_told(make.__name__):
                with stops_retries(home.open(), make.__name__):
                    selection = config.selection(home.open().root, by_command=home.by_command)
                yield from materialize_each(
                    context, home, progress, lambda at, key, tell: make(at, key, selection, tell)
                )

        def look_up(home: Home, key: str, choices: Mapping[str, Any]) -> str:
            selection = selector(**choices).selection(home.root, by_command=True)
            return make(home, key, selection, lambda *_: None).version.digest

        LOOK_UPS[make.__name__] = look_up
        return cast("dg.AssetsDefinition", asset)

    return decorate


def materialize_each(
    context: dg.AssetExecutionContext, home: HomeResource, progress: ProgressLog, build: Build
) -> Iterator[dg.MaterializeResult]:
    """Build every partition of the run, and yield the asset's result.

    All partitions are tried. The successful ones are reported first; then the step fails with all failures.

    Raises:
        dagster.Failure: If a partition failed and a retry cannot help.
    """
    opened, asset = home.open(), context.asset_key.path[-1]
    keys = list(context.partition_keys) if context.has_partition_key or context.has_partition_key_range else [""]
    done: dict[str, Materialized] = {}
    failures: dict[str, dg.Failure] = {}
    for key in keys:
        report = progress.reporter(context.log, asset, key)
        try:
            with stops_retries(opened, key or asset):
                done[key] = build(opened, key, report)
        except dg.Failure as failure:
            failures[key] = failure
            continue
        report("done", 1.0, {"reused": done[key].reused})
        context.log.info(f"{done[key].version} {'was there already' if done[key].reused else 'built'}")
    if failures:
        _log_each(context, opened, done)
        raise next(iter(failures.values())) if len(keys) == 1 else _joined(failures, len(keys))
    if len(done) == 1:
        (only,) = done.values()
        yield dg.MaterializeResult(metadata=describe(opened, only), data_version=dg.DataVersion(only.version.digest))
        return
    yield _joint(done)
    _log_each(context, opened, done)


def _joint(done: Mapping[str, Materialized]) -> dg.MaterializeResult:
    """Return the result of several partitions, which says nothing of each: events of their own follow."""
    joint = digest_of([materialized.version.digest for materialized in done.values()])
    return dg.MaterializeResult(data_version=dg.DataVersion(joint))


def event_of(home: Home, version: StoreVersion) -> dg.AssetMaterialization:
    """Return the event that reports a version of another asset that a step published."""
    described = describe(home, Materialized(version, False, home.metrics(version)))
    tags = version_tags(version.digest, None, {})
    return dg.AssetMaterialization(version.kind, partition=version.partition, metadata=described, tags=tags)


def version_tags(digest: str, code_version: str | None, inputs: Mapping[dg.AssetKey, InputState]) -> dict[str, str]:
    """Return the tags by which Dagster judges later whether a version is out of date.

    Args:
        digest: Digest of the version, which is its data version.
        code_version: Code version of the asset; None without one.
        inputs: State of each upstream asset when the version was made. An upstream asset that is left out would be
            taken for a new one.
    """
    tags = {DATA_VERSION_TAG: digest, "dagster/data_version_is_user_provided": "true"}
    if code_version:
        tags[CODE_VERSION_TAG] = code_version
    for key, state in inputs.items():
        tags[get_input_data_version_tag(key)] = state.data_version
        tags[get_input_event_pointer_tag(key)] = str(state.storage_id or NULL_EVENT_POINTER)
    return tags


def _log_each(context: dg.AssetExecutionContext, home: Home, done: dict[str, Materialized]) -> None:
    """Record each partition's own data version.

    Dagster gives all partitions of one run the same data version. The events written here come later, so Dagster judges
    staleness by them.
    """
    key = context.asset_key
    step: Any = context.get_step_execution_context()
    inputs = {parent: _state(step, parent) for parent in step.job_def.asset_layer.get(key).parent_keys}
    code_version = context.assets_def.code_versions_by_key.get(key)
    for partition, materialized in done.items():
        event = dg.AssetMaterialization(
            key,
            partition=partition or None,
            metadata=describe(home, materialized),
            tags=version_tags(materialized.version.digest, code_version, inputs),
        )
        context.log_event(event)


def _state(step: Any, key: dg.AssetKey) -> InputState:  # noqa: ANN401 - a class that Dagster does not export
    """Return the state of an upstream asset as Dagster saw it when the step began."""
    seen = step.maybe_fetch_and_get_input_asset_version_info(key)
    if seen is None:
        return InputState(DEFAULT_DATA_VERSION.value, None)
    return InputState((seen.data_version or DEFAULT_DATA_VERSION).value, seen.storage_id)


def _joined(failures: Mapping[str, dg.Failure], total: int) -> dg.Failure:
    said = {key: str(failure.description) for key, failure in failures.items()}
    lines = "\n".join(said.values())
    return dg.Failure(
        f"{len(failures)} of {total} partitions failed:\n{lines}",
        metadata={
            "failed": dg.MetadataValue.md("\n\n".join(map(plain_markdown, lines.splitlines()))),
            "by_partition": dg.MetadataValue.json(said),
        },
        allow_retries=False,
    )
