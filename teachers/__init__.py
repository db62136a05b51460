"""Teachers, which produce training targets: neural fields per scene and foundation models per image."""
