"""Dagster's code server, which ends with its supervisor: ``python -m pipeline.service.code_server SOCKET``."""

import sys

from dagster._cli import cli

from pipeline.service.daemon import LOCATION
from storage.parent_process import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    where = ["--socket", sys.argv[1], "-m", "pipeline.definitions", "-a", "definitions", "--location-name", LOCATION]
    cli(["api", "grpc", *where, "--log-level", "warning", "--inject-env-vars-from-instance"])
