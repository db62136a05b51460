"""What people read about a student: the report, its plots, the lineage of its targets."""
