"""How good a student is: held-out frames, references, figures with intervals and baselines."""
