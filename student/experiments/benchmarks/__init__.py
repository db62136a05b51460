"""Benchmarks of the student's fast paths against the plain implementation, in the same process."""
