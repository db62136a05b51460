"""Uses of a student: text queries, weak labels and a viewer."""
