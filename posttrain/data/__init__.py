"""From a user's rows to problems and trajectories: parsing, deduplication, decontamination, counting."""
