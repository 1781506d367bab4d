"""Requests that are signed with the placeholder pair and then changed, or signed otherwise. Prints,
for each, its name, the status and the type of the refusal."""

import datetime
import http.client
import json
import os
import ssl

import botocore.auth
import botocore.credentials
from botocore.awsrequest import AWSRequest

HOST = "s3.eu-central-1.amazonaws.com"
OTHER = "dynamodb.eu-central-1.amazonaws.com"
PAIR = (os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])


class Late(botocore.auth.S3SigV4Auth):
    """Signs as if it were twenty minutes ago."""

    def add_auth(self, request):
        now = botocore.auth.get_current_datetime
        before = lambda: now() - datetime.timedelta(minutes=20)
        botocore.auth.get_current_datetime = before
        try:
            super().add_auth(request)
        finally:
            botocore.auth.get_current_datetime = now


def signed(method="GET", path="/attacked/key", body=b"", pair=PAIR, token=None,
           scope=("s3", "eu-central-1"), signer=botocore.auth.S3SigV4Auth, headers=None):
    request = AWSRequest(method, f"https://{HOST}{path}", data=body, headers=headers or {})
    signer(botocore.credentials.Credentials(*pair, token), *scope).add_auth(request)
    target = request.url.removeprefix(f"https://{HOST}")
    return [method, target, dict(request.headers.items()), body]


def send(name, request, host=HOST, change=lambda target, headers: None, more=()):
    method, target, headers, body = request
    target = change(target, headers) or target
    connection = http.client.HTTPSConnection(host, context=ssl.create_default_context(), timeout=60)
    connection.putrequest(method, target, skip_accept_encoding=True)
    for header, value in [*headers.items(), *more]:
        connection.putheader(header, value)
    if body:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body or None)
    answer = connection.getresponse()
    text = answer.read()
    try:
        reason = json.loads(text)["error"]["type"]
    except ValueError:
        reason = "-"
    print(name, answer.status, reason, flush=True)


def replaced(old, new):
    def change(target, headers):
        headers["Authorization"] = headers["Authorization"].replace(old, new)
    return change


presigned = signed(signer=botocore.auth.S3SigV4QueryAuth)
place = (b"<CreateBucketConfiguration><LocationConstraint>eu-central-1</LocationConstraint>"
         b"</CreateBucketConfiguration>")
send("bucket", signed("PUT", "/attacked", body=place))
send("as-signed", signed())
send("same-object", signed(), change=lambda target, headers: "/attacked/%6Bey")
send("another-host", signed(), host=OTHER)
send("another-region", signed(), change=replaced("eu-central-1", "us-east-1"))
send("another-service", signed(), change=replaced("/s3/", "/dynamodb/"))
send("another-path", signed(), change=lambda target, headers: "/attacked/other")
send("two-slashes", signed(), change=lambda target, headers: "/attacked//key")
send("dots", signed(), change=lambda target, headers: "/attacked/x/../key")
send("encoded-dots", signed(), change=lambda target, headers: "/attacked/x/%2e%2e/key")
send("more-query", signed(), change=lambda target, headers: target + "?acl")
send("smuggled-header", signed(), more=[("x-amz-copy-source", "/attacked/key")])
send("without-host", signed(), change=replaced("SignedHeaders=host;", "SignedHeaders="))
send("by-url", presigned)
send("two-places", presigned, more=[("Authorization", signed()[2]["Authorization"])])
send("twice", presigned, change=lambda target, headers: target + "&X-Amz-Expires=3600")
send("otherwise-spelled", presigned, change=lambda target, headers: target + "&x-amz-expires=3600")
send("unsigned", ["GET", "/attacked/key", {}, b""])
send("version-2", ["GET", "/attacked/key", {"Authorization": f"AWS {PAIR[0]}:c2ln"}, b""])
send("version-4a", signed(), change=replaced("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"))
send("too-late", signed(signer=Late))
send("keys-of-its-own", signed(pair=("AKIAOWNOWNOWNOWN2345", "own")))
send("wrong-secret", signed(pair=(PAIR[0], "wrong")))
send("session-token", signed(token="a-token"))
send("another-body", [*signed("PUT", body=b"what was signed")[:3], b"something else!"])
send("no-copy-of-others", signed("PUT", headers={"x-amz-copy-source": "/secret/key"}))
send("a-second-key", signed(headers={"x-api-key": "another"}))
