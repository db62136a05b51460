"""Fitting a student: steps, states, processes, validation and what is written beside the weights."""
