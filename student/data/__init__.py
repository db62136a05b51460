"""Data of a student: frozen stores, their frames, the views drawn from them, and the order of batches."""
