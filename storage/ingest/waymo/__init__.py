"""The reader of the Waymo Open Dataset: TFRecord files (v1) and parquet components (v2)."""
