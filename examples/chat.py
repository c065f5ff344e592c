"""Ask about one clip, and ask again: python examples/chat.py [CLIP]"""

import sys

from omni import Chat, load

model, processor = load("default")
chat = Chat(model, processor, sys.argv[1] if len(sys.argv) > 1 else "examples/clips/conflict.mp4")
for question in ("Which emotion does the person express?", "What in the voice says so?"):
    answer = chat.ask(question)
    print(f"{question}\n  {answer.thought}\n  {answer.label} {answer.confidence:.2f}")
