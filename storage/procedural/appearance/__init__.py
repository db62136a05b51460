"""Appearance of surfaces: materials, textures, light and the shading kernel."""
