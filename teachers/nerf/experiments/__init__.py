"""Experiments with the per-scene field; they are run by hand, in nerfstudio's environment."""
