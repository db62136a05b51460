"""The things of a procedural place, and their poses at any time."""
