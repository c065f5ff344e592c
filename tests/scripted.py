"""The tiny model with a script: whatever it sees, hears and is asked, it writes `TEXT`, word by word.

Its layers pass on what comes in, and in its output head each word of the script is followed by the next, so texts and
transcripts can be compared. What depends on the clip or on what was said before is tested on the random model of
`omni.tiny`.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from omni.tiny import tiny

WORDS = ("<think>", "The", " lips", " are", " raised", ".", "</think>", "<answer>", "happy", "</answer>")
TEXT = "".join(WORDS)
THOUGHT = "The lips are raised."


def scripted(*, endless: bool = False):
    """`(model, processor)`; endless ones say `THOUGHT` again and again."""
    model, processor = tiny()
    tokenizer = processor.tokenizer
    tokenizer.add_tokens(list(WORDS))
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    chain = [tokenizer("\n").input_ids[0], *tokenizer.convert_tokens_to_ids(list(WORDS)), tokenizer.eos_token_id]
    if endless:
        chain = [*chain[: 1 + WORDS.index("</think>")], chain[2]]
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        known = torch.nn.functional.normalize(torch.randn(len(tokenizer), 32), dim=-1)
        model.model.language_model.embed_tokens.weight.copy_(known)
        head = 0.1 * torch.randn(len(tokenizer), 32)
        for before, after in pairwise(chain):
            head[after] = 4 * known[before]
        model.lm_head.weight = torch.nn.Parameter(head)
    return model.eval(), processor
