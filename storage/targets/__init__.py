"""The target stores, which teachers write and the student reads."""
