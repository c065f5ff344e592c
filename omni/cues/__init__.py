"""What can be measured or claimed about a face and a voice without a model: a lexicon of cues and their truth."""
