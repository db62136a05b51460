"""Orchestration: Dagster definitions, partitions, resources, run configuration and the command line."""
