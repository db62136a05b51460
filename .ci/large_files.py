"""Refuse staged files over 500 kB: data and weights do not belong in the repository."""

import sys
from pathlib import Path

LIMIT_BYTES = 500_000

if __name__ == "__main__":
    large = [path for path in sys.argv[1:] if Path(path).is_file() and Path(path).stat().st_size > LIMIT_BYTES]
    for path in large:
        print(f"{path}: {Path(path).stat().st_size} bytes, at most {LIMIT_BYTES} wanted")  # noqa: T201 - a command line tool
    sys.exit(bool(large))
