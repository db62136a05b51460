"""Use of a trained student: checkpoints, occupancy and words."""
