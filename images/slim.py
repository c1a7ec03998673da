"""Takes out of an image's packages what nothing in it loads: `slim.py SITE_PACKAGES`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

# Tests; what others would build or link with; Arrow's protocols; second copies of a library, as wheels have no links.
UNUSED = [
    "**/tests",
    "**/*.pyi",
    "**/*.a",
    "numpy/distutils",
    "numpy/f2py",
    "numpy/_core/include",
    "pyarrow/include",
    "pyarrow/src",
    "pyarrow/**/*.pxd",
    "pyarrow/**/*.pyx",
    "pyarrow/**/*.pxi",
    "pyarrow/_pyarrow_cpp_tests*",
    "pyarrow/libarrow_flight*",
    "pyarrow/libarrow_python_flight*",
    "pyarrow/_flight*",
    "pyarrow/libarrow_s3*",
    "pyarrow/_s3fs*",
    "pyarrow/libarrow_python.so",
    "pyarrow/libarrow_python*.so.*.*.*",
]
# What boto3 knows of AWS: a bucket, and the ways to credentials for it.
SERVICES = {"s3", "sts", "sso", "sso-oidc", "signin"}


def main(packages: Path) -> None:
    """Delete the files and folders, and say how much that was."""
    services = [path for path in packages.glob("botocore/data/*/") if path.is_dir() and path.name not in SERVICES]
    before = _size(packages)
    for path in [*services, *(path for pattern in UNUSED for path in packages.glob(pattern))]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    print(f"{(before - _size(packages)) >> 20} of {before >> 20} MiB taken out")


def _size(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
