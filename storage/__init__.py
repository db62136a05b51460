"""Schemas, keys, provenance, versioned stores, geometry, dataset readers and the procedural world.

The lowest layer: it knows what a scene and a target are, never how a model makes or learns them.
"""
