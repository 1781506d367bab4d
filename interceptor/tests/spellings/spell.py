# Writes the key as Python's encoders do: a line for each, its name and the bytes in hexadecimal.
import base64, binascii, html, json, os, textwrap, urllib.parse

key = os.environ["KEY"]
raw = key.encode()
more = b"Authorization: Bearer " + raw + b"\r\n"


def say(name, value):
    value = value if isinstance(value, bytes) else value.encode()
    print(name, value.hex())


say("json", json.dumps({"key": key}))
say("json-twice", json.dumps(json.dumps({"key": key})))
say("repr", repr({"key": key}))
say("quote", urllib.parse.quote(key))
say("quote-all", urllib.parse.quote(key, safe=""))
say("quote-twice", urllib.parse.quote(urllib.parse.quote(key, safe=""), safe=""))
say("urlencode", urllib.parse.urlencode({"key": key}))
say("html", html.escape(key))
say("ascii-entities", "".join(f"&#{ord(c)};" if not c.isalnum() else c for c in key))
say("base64", base64.b64encode(more))
say("base64-url", base64.urlsafe_b64encode(more))
say("base64-mime", base64.encodebytes(more * 3))
say("base64-quoted", urllib.parse.quote(base64.b64encode(more), safe=""))
say("base64-json", json.dumps({"data": base64.encodebytes(more * 3).decode()}))
say("hex", raw.hex())
say("hexlify", binascii.hexlify(raw, "-"))
for separator in ":", " ", "-", "_", ".", ",":
    say("hex-by", raw.hex(separator))
say("hex-groups", raw.hex(" ", -2))
say("hex-groups", raw.hex(" ", -4))
say("hex-lines", "\n".join(textwrap.wrap(raw.hex(), 60)))
say("hex-lines-json", json.dumps("\n".join(textwrap.wrap(raw.hex(" "), 48))))
say("bytes-list", ", ".join(f"0x{b:02x}" for b in raw))
say("utf-16-le", key.encode("utf-16-le"))
say("utf-16-be", key.encode("utf-16-be"))
say("utf-16-base64", base64.b64encode(key.encode("utf-16-le")))
