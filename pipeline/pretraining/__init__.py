"""Pretraining of the shipped student on procedural drives; ``python -m pipeline.pretraining`` is the command."""
