"""What the training stages share: TRL arguments, callbacks, staleness, and writing the trained policy."""
