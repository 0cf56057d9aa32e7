"""How good videos are, compared with their originals, with a set of real videos, and with the training set."""
