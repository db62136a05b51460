"""What sensors see of a world: cameras, LiDAR, visibility, occupancy, flow."""
