"""What stages exchange: policies, problems, trajectories, evaluations; their digests, records and contracts."""
