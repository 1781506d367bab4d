"""grpcio, as its documentation uses it: the default roots, a key in the metadata."""

import os
import sys
import threading

import grpc

print("version", grpc.__version__)
metadata = (("authorization", "Bearer " + os.environ["LAB_API_KEY"]),)
with grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials()) as channel:
    answer, call = channel.unary_unary("/lab.Lab/Unary").with_call(b"hello", metadata=metadata)
    print("unary", answer.decode(), dict(call.trailing_metadata())["lab-trailer"])

    # Sends the next message only after the answer to the last: the proxy may hold nothing back.
    answered = []
    came = threading.Event()

    def messages():
        for number in range(3):
            while len(answered) < number:
                came.wait()
                came.clear()
            yield b"message %d" % number

    call = channel.stream_stream("/lab.Lab/Stream")(messages(), metadata=metadata, timeout=30)
    for answer in call:
        answered.append(answer)
        came.set()
        print(answer.decode())
    print("ended", call.code().name, dict(call.trailing_metadata())["lab-trailer"])

    for method in ("Fail", "Forbidden"):
        try:
            channel.unary_unary("/lab.Lab/" + method)(b"hello", metadata=metadata)
        except grpc.RpcError as error:
            print(method, error.code().name, error.details())
