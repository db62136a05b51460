"""A trained student at work: checkpoints, occupancy, words."""
