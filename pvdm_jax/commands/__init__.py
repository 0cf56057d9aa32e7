"""What a command does beyond one call of the library."""
