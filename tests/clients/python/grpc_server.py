"""A gRPC server over TLS: `/lab.Lab/Unary` echoes its message, `/lab.Lab/Stream` each that it gets.

Arguments: certificate and key as PEM files. Prints `port N`, then a JSON object for each call: its
method and metadata.
"""

import json
import sys
from concurrent import futures

import grpc


def told(context):
    pairs = context.invocation_metadata()
    metadata = [[key, value] for key, value in pairs if isinstance(value, str)]
    print(json.dumps({"method": told.method.pop(0), "metadata": metadata}), flush=True)
    context.set_trailing_metadata((("lab-trailer", "at the end"),))


told.method = []


class Lab(grpc.GenericRpcHandler):
    def service(self, call):
        told.method.append(call.method)
        if call.method == "/lab.Lab/Unary":
            return grpc.unary_unary_rpc_method_handler(self.unary)
        if call.method == "/lab.Lab/Stream":
            return grpc.stream_stream_rpc_method_handler(self.stream)
        if call.method == "/lab.Lab/Fail":
            return grpc.unary_unary_rpc_method_handler(self.fail)
        return None

    def unary(self, request, context):
        told(context)
        return b"unary " + request

    def stream(self, requests, context):
        told(context)
        for request in requests:
            yield b"stream " + request

    def fail(self, request, context):
        told(context)
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "failed, as was asked")


with open(sys.argv[1], "rb") as certificate, open(sys.argv[2], "rb") as key:
    credentials = grpc.ssl_server_credentials([(key.read(), certificate.read())])
server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
server.add_generic_rpc_handlers((Lab(),))
port = server.add_secure_port("127.0.0.1:0", credentials)
server.start()
print("port", port, flush=True)
# Until the test closes our standard input.
sys.stdin.read()
server.stop(0)
