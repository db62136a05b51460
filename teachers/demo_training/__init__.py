"""Train the tiny checkpoints that this project ships, on its own procedural worlds: ``python -m ...train``."""
