"""The reader of nuScenes: its tables, sweeps and splits, and the labels of Occ3D."""
