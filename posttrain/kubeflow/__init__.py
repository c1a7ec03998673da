"""What is deployed on a Kubeflow Pipelines server: pipelines and recurring runs, upserted; runs, started and listed."""
