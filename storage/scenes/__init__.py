"""The scene store: what a recording is once it has been ingested."""
