"""The conversation (tests/src/clients/conversation.rs) by the library named in the argument."""

import asyncio
import os
import sys

library, origin = sys.argv[1:3]
headers = {"authorization": "Bearer " + os.environ["LAB_API_KEY"]}
upload = bytes(3_000_000)


def told(line):
    if line.startswith("data: "):
        print(line[6:], flush=True)


def by_requests():
    import requests

    print("version", requests.__version__)
    with requests.Session() as session:
        session.headers.update(headers)
        answer = session.get(origin + "/v1/lab/echo")
        print("echo", answer.status_code)
        print(answer.text)
        answer = session.post(origin + "/v1/lab/upload", data=upload)
        print("upload", answer.status_code, answer.text, end="")
        with session.get(origin + "/v1/lab/events/3", stream=True) as answer:
            for line in answer.iter_lines(decode_unicode=True):
                told(line)
        answer = session.delete(origin + "/v1/models/m")
        print("refused", answer.status_code, answer.text, end="")


def by_httpx(http2=False):
    import httpx

    print("version", httpx.__version__)
    with httpx.Client(headers=headers, http2=http2) as client:
        answer = client.get(origin + "/v1/lab/echo")
        print("echo", answer.status_code)
        print(answer.text)
        answer = client.post(origin + "/v1/lab/upload", content=upload)
        print("upload", answer.status_code, answer.text, end="")
        with client.stream("GET", origin + "/v1/lab/events/3") as answer:
            for line in answer.iter_lines():
                told(line)
        answer = client.delete(origin + "/v1/models/m")
        print("refused", answer.status_code, answer.text, end="")


async def by_aiohttp():
    import aiohttp

    print("version", aiohttp.__version__)
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.get(origin + "/v1/lab/echo") as answer:
            print("echo", answer.status)
            print(await answer.text())
        async with session.post(origin + "/v1/lab/upload", data=upload) as answer:
            print("upload", answer.status, await answer.text(), end="")
        async with session.get(origin + "/v1/lab/events/3") as answer:
            async for line in answer.content:
                told(line.decode().rstrip("\n"))
        async with session.delete(origin + "/v1/models/m") as answer:
            print("refused", answer.status, await answer.text(), end="")


def by_urllib():
    import platform
    import urllib.error
    import urllib.request

    def ask(method, path, body=None):
        request = urllib.request.Request(origin + path, data=body, headers=headers, method=method)
        return urllib.request.urlopen(request)

    print("version", platform.python_version())
    with ask("GET", "/v1/lab/echo") as answer:
        print("echo", answer.status)
        print(answer.read().decode())
    with ask("POST", "/v1/lab/upload", upload) as answer:
        print("upload", answer.status, answer.read().decode(), end="")
    with ask("GET", "/v1/lab/events/3") as answer:
        for line in answer:
            told(line.decode().rstrip("\n"))
    try:
        ask("DELETE", "/v1/models/m")
    except urllib.error.HTTPError as error:
        print("refused", error.code, error.read().decode(), end="")


match library:
    case "requests":
        by_requests()
    case "httpx":
        by_httpx()
    case "httpx2":
        by_httpx(http2=True)
    case "aiohttp":
        asyncio.run(by_aiohttp())
    case "urllib":
        by_urllib()
    case _:
        sys.exit(f"no library {library}")
