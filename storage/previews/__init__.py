"""Pictures of what is stored, on scales that every picture of the project shares."""
