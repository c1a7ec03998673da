"""Sampling from a policy: what to draw (`decoding`), and with which engine (`transformers`, …)."""
