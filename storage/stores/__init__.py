"""Versioned stores: what a version is, where it came from, how it is published, found, listed and verified."""
