"""Writers of a recorded world: nuScenes tables, rig manifests and the store of exact truth."""
