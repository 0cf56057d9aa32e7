"""Weights in files: model folders, the official code's checkpoints, a run's autoencoder."""
