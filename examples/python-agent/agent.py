"""Asks a model one question. The key in its environment is a placeholder.

    interceptor run --policy ../policies/openai.json -- python3 agent.py
"""

import json
import os
import urllib.error
import urllib.request


def post(path, document):
    request = urllib.request.Request(
        "https://api.openai.com" + path,
        data=json.dumps(document).encode(),
        headers={
            "authorization": "Bearer " + os.environ["OPENAI_API_KEY"],
            "content-type": "application/json",
        },
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as refusal:
        # A refusal is an HTTP answer with the reason in its body.
        raise SystemExit(json.load(refusal)["error"]["message"]) from None


if __name__ == "__main__":
    answer = post("/v1/responses", {"model": "gpt-5-mini", "input": "Say hello."})
    for item in answer["output"]:
        for part in item.get("content", []):
            print(part.get("text", ""))
