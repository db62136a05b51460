"""Versioned stores: versions and their provenance, and how they are published, found, listed and verified."""
