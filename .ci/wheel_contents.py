"""Refuse a wheel that lacks a file of the packages, or carries one that is not in the repository."""

import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGES = ("assets", "encoders", "pipeline", "storage", "student", "teachers")

if __name__ == "__main__":
    listed = subprocess.run(["git", "ls-files", *PACKAGES], check=True, capture_output=True, text=True).stdout
    wanted = {path for path in listed.splitlines() if Path(path).is_file()}
    carried = {name for name in zipfile.ZipFile(sys.argv[1]).namelist() if ".dist-info/" not in name}
    found = [f"not in the wheel: {path}" for path in sorted(wanted - carried)]
    found += [f"not in the repository: {path}" for path in sorted(carried - wanted)]
    sys.exit("\n".join(found) if found or not wanted else 0)
