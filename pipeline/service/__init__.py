"""Dagster as a service of one home: code server, daemon and web server under supervision, and the runs they launch."""
