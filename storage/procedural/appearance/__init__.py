"""How surfaces look: materials, textures, light and the shading kernel."""
