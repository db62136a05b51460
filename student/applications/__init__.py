"""What a student is used for: text queries, weak labels, a viewer."""
