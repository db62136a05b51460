"""The target stores: what teachers write and the student reads."""
