"""What an image installs: `resolve.py EXTRA,EXTRA`, beside pyproject.toml and constraints.txt.

Writes `requirements.txt`, every package with its version, and `wheels/`, built here from what comes as source only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path


def main(extras: list[str]) -> None:
    """Resolve as pip does, without fetching what comes as a wheel."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + [each for extra in extras for each in project["optional-dependencies"][extra]]
    pip("install", "--dry-run", "--ignore-installed", "--report", "report.json", "-c", "constraints.txt", *wanted)
    found = json.loads(Path("report.json").read_text(encoding="utf-8"))["install"]
    pins = {"{name}=={version}".format(**each["metadata"]): each["download_info"]["url"] for each in found}
    Path("requirements.txt").write_text("".join(f"{pin}\n" for pin in sorted(pins, key=str.lower)), encoding="utf-8")
    Path("wheels").mkdir()
    sources = [pin for pin, url in pins.items() if not url.endswith(".whl")]
    if sources:
        pip("wheel", "--no-deps", "--wheel-dir", "wheels", *sources)


def pip(*arguments: str) -> None:
    """Run this interpreter's pip."""
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)


if __name__ == "__main__":
    main(sys.argv[1].split(","))
