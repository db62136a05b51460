"""Sensors in a procedural world: cameras, LiDAR, visibility, occupancy, flow."""
