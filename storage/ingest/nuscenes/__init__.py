"""The reader of nuScenes: its tables, sweeps and splits, and Occ3D's labels beside it."""
