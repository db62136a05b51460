"""The scene store: an ingested recording."""
