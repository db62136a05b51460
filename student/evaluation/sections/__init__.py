"""Accumulators of scores, one per kind of quality; each is fed frame by frame and gives a section of the result."""
