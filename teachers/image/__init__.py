"""The image teachers: sky, monocular depth, DINOv2 and CLIP features of every image."""
