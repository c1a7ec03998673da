"""Where gated policies go: versions, which of them is the champion, and why."""

from posttrain.registry.directory import Change, DirectoryRegistry, Promote
from posttrain.registry.index import Index, Promotion, Version

__all__ = ["Change", "DirectoryRegistry", "Index", "Promote", "Promotion", "Version", "open_registry"]


def open_registry(uri: str) -> DirectoryRegistry:
    """The registry at a path, `file://…` or `s3://bucket/prefix`. Nothing is asked of it yet."""
    return DirectoryRegistry(uri)
