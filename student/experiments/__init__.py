"""Studies and benches that answer one question each, run as modules."""
