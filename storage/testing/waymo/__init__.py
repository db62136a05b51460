"""The procedural world as Waymo's sensors would record it, written in both of Waymo's formats."""
