"""Studies and benchmarks that are run as modules; each answers one question."""
