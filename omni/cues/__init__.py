"""What can be measured and said about a face and a voice without a model: cues, their words, their truth."""
