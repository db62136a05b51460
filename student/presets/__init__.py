"""Complete configurations of students, each a function named for what it reproduces."""
