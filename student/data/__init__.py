"""From frozen stores to training batches: which versions, which frames, which views, in which order."""
