"""How good videos are: against their originals, against real ones as a set, and against the training set."""
