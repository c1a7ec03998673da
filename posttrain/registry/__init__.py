"""Where gated policies go: versions, which of them is the champion, and why."""

import os

from posttrain.registry.directory import Change, DirectoryRegistry, Promote
from posttrain.registry.index import Index, Promotion, Version

__all__ = ["Change", "DirectoryRegistry", "Index", "Promote", "Promotion", "Version", "open_registry"]


def open_registry(uri: str, model_registry: str = "") -> DirectoryRegistry:
    """The registry at a path, `file://…` or `s3://bucket/prefix`. Nothing is asked of it yet.

    Args:
        model_registry: URL of a Kubeflow Model Registry that is told of what is registered there, if any.

    Raises:
        ConfigError: the URL is none, or the server's client is not installed.
    """
    if not model_registry:
        return DirectoryRegistry(uri)
    from posttrain.registry.kubeflow import KubeflowRegistry
    from posttrain.registry.server import Server

    return KubeflowRegistry(uri, Server(model_registry, os.environ))
