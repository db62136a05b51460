"""A tiny recording, and homes that know it: as the tests of the pipeline have them."""

from tests.pipeline.conftest import make_home, prepared_home, recording, write_recording

__all__ = ["make_home", "prepared_home", "recording", "write_recording"]
