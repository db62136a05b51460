"""Readers of raw driving logs: the only place where a data set's own conventions are known."""
