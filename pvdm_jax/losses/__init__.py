"""Losses of stage 1 that take networks: the adversarial terms and the perceptual distance."""
