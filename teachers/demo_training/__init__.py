"""Training of the shipped tiny checkpoints on procedural worlds; ``teachers.demo_training.train`` is the command."""
