"""Fast formulations of what the networks are made of."""
