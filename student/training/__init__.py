"""Fitting a student: steps, states, processes, validation and the records beside the weights."""
