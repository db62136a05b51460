"""Evaluation of a student: held-out frames, references, figures with intervals, and baselines."""
