"""Independent judges of what is stored: a rig's calibration, rendered depth, sky, numbers."""
