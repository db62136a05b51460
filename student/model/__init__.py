"""DistillNeRF's student: surround images in, a renderable sparse-voxel field out, in one forward pass."""
