"""Training of the two stages: one loop, and per stage a state and a pure step."""
