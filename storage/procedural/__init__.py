"""A seeded procedural driving world whose ground truth is exact at any camera pose and time."""
