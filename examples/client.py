"""Ask a running `omni serve` with OpenAI's client, as the answer is written: python examples/client.py [CLIP [URL]]"""

import sys

from openai import OpenAI

clip = sys.argv[1] if len(sys.argv) > 1 else "examples/clips/conflict.mp4"
url = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8000/v1"
client = OpenAI(base_url=url, api_key="none")
with open(clip, "rb") as file:
    upload = client.files.create(file=file, purpose="user_data")
content = [
    {"type": "file", "file": {"file_id": upload.id}},
    {"type": "text", "text": "Which emotion does the person express?"},
]
for chunk in client.chat.completions.create(
    model="default", messages=[{"role": "user", "content": content}], stream=True
):
    delta = chunk.choices[0].delta
    print(getattr(delta, "reasoning_content", None) or delta.content or "", end="", flush=True)
print(f"\n{delta.emotion['labels']}")
client.files.delete(upload.id)
