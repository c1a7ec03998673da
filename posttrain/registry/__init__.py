"""Where gated policies go."""
