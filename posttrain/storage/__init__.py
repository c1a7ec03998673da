"""Where data lies: a path, `file://` or `s3://`, behind `fetch` and `publish`."""

from posttrain.storage.exchange import fetch, publish, read_text, write_text

__all__ = ["fetch", "publish", "read_text", "write_text"]
