"""Run one plain function for each partition of a Dagster run, and report each outcome to Dagster."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import dagster as dg

from assets.failures import stops_retries
from assets.metadata import describe
from pipeline.progress import ProgressCallback, ProgressLog
from pipeline.resources import HomeResource
from pipeline.run_config import HomeSelection, RunSelector
from storage.digests import digest_of
from storage.stores.versioned import Home, Materialized, StoreVersion

DATA_VERSION_TAG = "dagster/data_version"

Build = Callable[[Home, str, ProgressCallback], Materialized]
"""Function that finds or builds one partition: the home, the partition's key, a progress callback."""


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
            with stops_retries(home.open(), make.__name__):
                selection = config.selection(home.open().root)
            yield from materialize_each(context, home, progress, lambda at, key, tell: make(at, key, selection, tell))

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
    failures: list[dg.Failure] = []
    for key in keys:
        report = progress.reporter(context.log, asset, key)
        try:
            with stops_retries(opened, key or asset):
                done[key] = build(opened, key, report)
        except dg.Failure as failure:
            failures.append(failure)
            continue
        report("done", 1.0, {"reused": done[key].reused})
        context.log.info(f"{done[key].version} {'was there already' if done[key].reused else 'built'}")
    if failures:
        _log_each(context, opened, done)
        raise failures[0] if len(keys) == 1 else _joined(failures, len(keys))
    yield _result(context, opened, done)
    if len(done) > 1:
        _log_each(context, opened, done)


def _result(context: dg.AssetExecutionContext, home: Home, done: dict[str, Materialized]) -> dg.MaterializeResult:
    if len(done) == 1:
        (only,) = done.values()
        return dg.MaterializeResult(metadata=describe(home, only), data_version=dg.DataVersion(only.version.digest))
    for key, materialized in done.items():
        context.add_asset_metadata(describe(home, materialized), partition_key=key)
    joint = digest_of([materialized.version.digest for materialized in done.values()])
    return dg.MaterializeResult(data_version=dg.DataVersion(joint))


def event_of(home: Home, version: StoreVersion) -> dg.AssetMaterialization:
    """Return the event that reports a version of another asset that a step published."""
    described = describe(home, Materialized(version, False, home.metrics(version)))
    tags = {DATA_VERSION_TAG: version.digest, "dagster/data_version_is_user_provided": "true"}
    return dg.AssetMaterialization(version.kind, partition=version.partition, metadata=described, tags=tags)


def _log_each(context: dg.AssetExecutionContext, home: Home, done: dict[str, Materialized]) -> None:
    """Record each partition's own data version.

    Dagster gives all partitions of one run the same data version. The events written here come later, so Dagster judges
    staleness by them.
    """
    code_version = context.assets_def.code_versions_by_key.get(context.asset_key)
    for key, materialized in done.items():
        tags = {
            DATA_VERSION_TAG: materialized.version.digest,
            "dagster/data_version_is_user_provided": "true",
            **({"dagster/code_version": code_version} if code_version else {}),
        }
        metadata = describe(home, materialized)
        event = dg.AssetMaterialization(context.asset_key, partition=key or None, metadata=metadata, tags=tags)
        context.log_event(event)


def _joined(failures: list[dg.Failure], total: int) -> dg.Failure:
    lines = "\n".join(str(failure.description) for failure in failures)
    return dg.Failure(
        f"{len(failures)} of {total} partitions failed:\n{lines}",
        metadata={"failed": dg.MetadataValue.md(lines.replace("\n", "\n\n"))},
        allow_retries=False,
    )
