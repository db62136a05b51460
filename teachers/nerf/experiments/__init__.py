"""Experiments on fields and what is rendered from them, each a command."""
