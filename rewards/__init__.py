"""Rewards: how good a completion is, as a number, without a model.

Each file holds one reward, a pure function in the form that TRL calls: `reward(completions, **columns)` gives
one float per completion, or None where it does not apply. Columns are those of the manifest, one value per
completion. Each docstring states the range and how the reward can be gamed.

Only omni's torch-free leaves are imported here, never torch.
"""
