"""A recorded world as files: nuScenes tables, rig manifests and the store of exact truth."""
