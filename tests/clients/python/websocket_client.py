"""The `websockets` package, as its documentation uses it."""

import asyncio
import os
import sys

import websockets


async def main():
    print("version", websockets.__version__)
    headers = {"authorization": "Bearer " + os.environ["LAB_API_KEY"]}
    async with websockets.connect(sys.argv[1] + "/v1/lab/ws", additional_headers=headers) as socket:
        for number in range(3):
            await socket.send(f"message {number}")
            print("echo", await socket.recv())
        await socket.send("x" * 300_000)
        print("long", len(await socket.recv()))
        await socket.send(b"\x00\xff")
        print("binary", (await socket.recv()).hex())
        await (await socket.ping())
        print("pong")
    try:
        async with websockets.connect(sys.argv[1] + "/admin/ws", additional_headers=headers):
            print("admitted")
    except websockets.exceptions.InvalidStatus as error:
        print("refused", error.response.status_code, error.response.body.decode().strip())


asyncio.run(main())
