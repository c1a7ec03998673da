"""The stages: one room each, all of the same shape (see README.md here)."""
