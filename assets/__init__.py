"""What exists: one thin Dagster asset per product of the pipeline."""
