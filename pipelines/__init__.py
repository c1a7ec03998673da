"""Recipe → Kubeflow pipeline, and running it."""
