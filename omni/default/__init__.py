"""The embedded default model: its recipe (wheels, and how they become ours) and what we trained."""
