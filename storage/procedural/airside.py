"""stub."""
from storage.procedural.street import build_street as build_airside  # noqa
