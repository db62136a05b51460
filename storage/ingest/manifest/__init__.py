"""The rig manifest: any vehicle's recording as one JSON file and a few Parquet tables."""
