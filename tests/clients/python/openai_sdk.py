"""The official `openai` package, as its documentation uses it: the key from the environment,
nothing else set."""

import asyncio
import os

import openai

messages = [{"role": "user", "content": "Say hello"}]
client = openai.OpenAI()
print("version", openai.__version__)
print("key", os.environ["OPENAI_API_KEY"])

answer = client.chat.completions.create(model="gpt-lab", messages=messages)
print("whole", answer.choices[0].message.content)

stream = client.chat.completions.create(model="gpt-lab-gated", messages=messages, stream=True)
for chunk in stream:
    if chunk.choices and chunk.choices[0].delta.content:
        print("delta", repr(chunk.choices[0].delta.content), flush=True)

print("response", client.responses.create(model="gpt-lab", input="Say hello").output_text)
with client.responses.stream(model="gpt-lab", input="Say hello") as stream:
    deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
    print("streamed", "".join(deltas))


async def later():
    async with openai.AsyncOpenAI() as client:
        answer = await client.chat.completions.create(model="gpt-lab", messages=messages)
        print("async", answer.choices[0].message.content)


asyncio.run(later())
try:
    client.files.delete("file-1")
except openai.APIStatusError as error:
    print("refused", type(error).__name__, error.status_code, error)
