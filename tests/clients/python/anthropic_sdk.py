"""The official `anthropic` package, as its documentation uses it: the key from the environment,
nothing else set."""

import asyncio
import os

import anthropic

asked = {"max_tokens": 64, "messages": [{"role": "user", "content": "Say hello"}]}
client = anthropic.Anthropic()
print("version", anthropic.__version__)
print("key", os.environ["ANTHROPIC_API_KEY"])

answer = client.messages.create(model="claude-lab", **asked)
print("whole", answer.content[0].text)

with client.messages.stream(model="claude-lab-gated", **asked) as stream:
    for text in stream.text_stream:
        print("delta", repr(text), flush=True)


async def later():
    async with anthropic.AsyncAnthropic() as client:
        answer = await client.messages.create(model="claude-lab", **asked)
        print("async", answer.content[0].text)


asyncio.run(later())
try:
    client.models.list()
except anthropic.APIStatusError as error:
    print("refused", type(error).__name__, error.status_code, error)
