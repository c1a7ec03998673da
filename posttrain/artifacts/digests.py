"""SHA-256 of files and of what an artifact consists of.

A file's digest is the plain SHA-256 of its bytes, so a weight file's digest equals the one the Hugging Face Hub shows.
An artifact's digest is the SHA-256 of its sorted (path, file digest) pairs: it names the content, not where or when.
Training curves are files of the artifact too, but the same weights logged at other steps are the same policy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any

RECORD_FILE = "posttrain.json"
LOGS_FOLDER = "tensorboard"  # in the record and verified, but no part of the artifact's digest

# Files beside a model that do not change what it does; a README edited by hand must not make another policy of it.
_NOT_CONTENT_SUFFIXES = {".md", ".lock", ".gitattributes"}


def digest_file(path: Path) -> str:
    """Lower-case hexadecimal SHA-256 of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_files(paths: Sequence[Path]) -> list[str]:
    """The digests of many files, in order; hashing leaves Python's lock, so shards are hashed side by side."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(digest_file, paths))


def digest_value(value: Any) -> str:
    """SHA-256 of a JSON-encodable value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def content_files(directory: Path) -> list[Path]:
    """The files that make the artifact what it is, sorted by relative path: all but the record, docs and dot-files."""
    return sorted(path for path in directory.rglob("*") if path.is_file() and is_content(path.relative_to(directory)))


def is_content(path: PurePath) -> bool:
    """Whether a file of that path within an artifact is a part of what it is."""
    hidden = any(part.startswith(".") for part in path.parts)
    return not (hidden or path.name == RECORD_FILE or path.suffix in _NOT_CONTENT_SUFFIXES)


def digest_directory(directory: Path) -> dict[str, str]:
    """Relative POSIX path → digest, for every content file."""
    files = content_files(directory)
    names = [path.relative_to(directory).as_posix() for path in files]
    return dict(zip(names, digest_files(files), strict=True))


def digest_of(files: Mapping[str, str]) -> str:
    """The artifact's digest from its files' digests, its logs left out."""
    return digest_value(sorted(item for item in files.items() if not item[0].startswith(f"{LOGS_FOLDER}/")))
