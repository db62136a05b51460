"""What a procedural place holds and where everything is at any time."""
