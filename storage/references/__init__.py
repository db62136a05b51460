"""References that a recording gives about itself, by which students are judged."""
