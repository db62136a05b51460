"""The command: ``python -m pipeline.pretraining scenes|fit|ship|head|rigs HOME``."""

import logging

import tyro

from pipeline.pretraining.commands import Fit, Head, Rigs, Scenes, Ship
from storage.freed_memory import reuse_freed_memory


def main() -> None:
    """Run one command."""
    reuse_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    commands = {"scenes": Scenes, "fit": Fit, "ship": Ship, "head": Head, "rigs": Rigs}
    command = tyro.extras.subcommand_cli_from_dict(commands, description=__doc__)
    command.run()


if __name__ == "__main__":
    main()
