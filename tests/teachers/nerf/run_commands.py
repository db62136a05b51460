"""Run commands of nerfstudio's environment one after the other in one process: importing nerfstudio takes longer.

Each is the file that pip installed, run as ``__main__`` with the arguments of the line; the first that fails ends it.
"""

import json
import runpy
import shlex
import sys
from pathlib import Path


def main() -> None:
    folder = Path(sys.executable).parent
    for line in json.loads(Path(sys.argv[1]).read_text()):
        program, *arguments = shlex.split(line)
        sys.argv = [str(folder / program), *arguments]
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as ended:
            if ended.code:
                sys.exit(f"{line}: exit code {ended.code}")


if __name__ == "__main__":
    main()
