"""AWS, as moto knows it: with TLS, and every request authenticated and authorised.

Prints a line with its port and the id of an access key, serves until its standard input ends, and
then prints what it saw of each request.
"""

import json
import os
import sys
import threading

os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "0"
os.environ["MOTO_ALLOW_NONEXISTENT_REGION"] = "false"

import hmac
import ssl
import urllib.parse

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID
from moto.core.responses import ActionAuthenticatorMixin
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

SEEN = []


class Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, code="-", size="-"):
        SEEN.append({
            "host": self.headers.get("host"),
            "method": self.command,
            "path": self.path.split("?")[0],
            "status": int(code),
            "headers": [[name, value] for name, value in self.headers.items()],
            "query": self.path.partition("?")[2],
        })

    def log(self, kind, message, *arguments):
        print(message % arguments if arguments else message, file=sys.stderr)


def keys(secret):
    """A user who may do anything with S3, DynamoDB and STS in this account, by that secret."""
    iam = get_backend("iam")[DEFAULT_ACCOUNT_ID]["aws"]
    iam.create_user("us-east-1", "somebody")
    document = {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": ["s3:*", "dynamodb:*", "sts:*"], "Resource": "*"}]}
    iam.put_user_policy("somebody", "all", json.dumps(document))
    key = iam.create_access_key("somebody")
    key.secret_access_key = secret
    return key.access_key_id, secret


class SignedUrls:
    """Verifies signed URLs with botocore: moto takes them for requests without a signature."""

    def __init__(self, application, pair):
        self.application, self.pair, self.lock = application, pair, threading.Lock()

    def __call__(self, environ, start_response):
        query = environ["QUERY_STRING"]
        if "X-Amz-Signature=" not in query:
            return self.application(environ, start_response)
        if not self.is_right(environ, dict(urllib.parse.parse_qsl(query))):
            start_response("403 Forbidden", [("content-type", "text/plain")])
            return [b"SignatureDoesNotMatch"]
        with self.lock:
            ActionAuthenticatorMixin.request_count = -1000
            try:
                return list(self.application(environ, start_response))
            finally:
                ActionAuthenticatorMixin.request_count = 0

    def is_right(self, environ, query):
        if query.get("X-Amz-SignedHeaders") != "host" or "/s3/" not in query["X-Amz-Credential"]:
            return False
        given = query["X-Amz-Signature"]
        kept = [one for one in environ["QUERY_STRING"].split("&")
                if not one.startswith("X-Amz-Signature=")]
        path = environ["RAW_URI"].split("?")[0]
        url = f"https://{environ['HTTP_HOST']}{path}?{'&'.join(kept)}"
        request = AWSRequest(environ["REQUEST_METHOD"], url, headers={})
        request.context["timestamp"] = query["X-Amz-Date"]
        region = query["X-Amz-Credential"].split("/")[2]
        signer = botocore.auth.S3SigV4QueryAuth(Credentials(*self.pair), "s3", region)
        text = signer.string_to_sign(request, signer.canonical_request(request))
        return hmac.compare_digest(signer.signature(text, request), given)


def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    pair = keys(sys.argv[3])
    application = SignedUrls(DomainDispatcherApplication(create_backend_app), pair)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler,
                         ssl_context=context)
    print(json.dumps([server.server_port, pair[0]]), flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    print(json.dumps(SEEN), flush=True)


main()
