"""Losses of a student, one function per term (DistillNeRF Sec. A.5)."""
