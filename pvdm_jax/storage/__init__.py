"""Files of a run: local, in buckets, as checkpoints."""
