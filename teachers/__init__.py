"""What produces training targets: per-scene neural fields and per-image foundation models."""
