"""Independent checks of stored versions: a rig's calibration, rendered depth, sky, finite numbers."""
