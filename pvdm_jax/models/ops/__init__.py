"""Fast formulations of the networks' building blocks."""
