"""The products of the pipeline, one thin Dagster asset for each."""

import warnings

import dagster as dg

# Backfill policies and partitioned checks are marked beta and preview. Dagster is pinned to one version, whose
# behaviour the tests hold; a warning per asset and process would bury those that matter.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)
