"""Post-training of language models as measured, recorded, gated stages on Kubeflow Pipelines."""

__version__ = "0.1.0"
