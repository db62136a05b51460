"""The process of one run that Dagster launched: Dagster's own, with a device of its own and the history kept open."""

import sys
from pathlib import Path

from dagster._cli import main as dagster_main  # not exported, but what `python -m dagster` calls

from pipeline.devices import own_device
from pipeline.open_history import open_history
from pipeline.resources import devices_from_environment


def main() -> None:
    """Execute the run that the second argument describes, on the instance in the folder that the first one names."""
    folder, told = Path(sys.argv[1]), sys.argv[2]
    sys.argv = ["dagster", "api", "execute_run", told]
    with own_device(folder.parent, devices_from_environment()), open_history(folder):
        dagster_main()


if __name__ == "__main__":
    main()
