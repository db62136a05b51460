"""Reports on a student: the page, its plots, and the lineage of its targets."""
