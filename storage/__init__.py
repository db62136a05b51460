"""Schemas, keys, provenance, versioned stores, geometry, dataset readers and the procedural world.

This is the lowest layer. It knows what a scene and a target are; how models make or learn them is left to others.
"""
