"""Small worlds whose whole truth is known: every right answer can be listed, so every measurement can be checked."""
