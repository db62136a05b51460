"""Frames, cameras and rays: one implementation for numpy and torch."""
