"""Tools for tests: writers of data sets in the layouts of others."""
