"""Timings of the student's fast paths against the obvious program, in the same process."""
