# An API that accepts Signet's access tokens, with the package PyJWT (and cryptography,
# which it needs for ES256). It is the same program as main.go, in Python.
import json
import os
import re
import signal
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt

issuer, audience = os.environ["SIGNET_ISSUER"], os.environ["RESOURCE"]

keys = {}  # key id to key
keys_read = float("-inf")  # when, by time.monotonic
revoked = {}  # grant id to the time (in seconds) when its last token has expired
not_before = 0  # no token with an earlier iat counts


def decode(token, typ, **more):
    header = jwt.get_unverified_header(token)
    if header.get("typ") != typ or "crit" in header:  # PyJWT looks at neither
        raise jwt.InvalidTokenError("another kind of token")
    if header.get("kid") not in keys:
        raise jwt.InvalidTokenError("unknown key")
    return jwt.decode(token, keys[header["kid"]], algorithms=["ES256"], issuer=issuer, leeway=60, **more)


def verify(token):
    claims = decode(token, "at+jwt", audience=audience, options={"require": ["iss", "aud", "exp", "iat", "sub", "gid"]})
    if claims["gid"] in revoked or claims["iat"] < not_before:
        raise jwt.InvalidTokenError("revoked")
    return claims


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def read(path):
    with urllib.request.build_opener(NoRedirect).open(issuer + path, timeout=5) as response:
        return response.read(16 << 20).decode()


def poll():
    global keys, keys_read, not_before
    found = json.loads(read("/.well-known/jwks.json"))["keys"]
    keys, keys_read = {k["kid"]: jwt.PyJWK(k).key for k in found if k.get("crv") == "P-256"}, time.monotonic()
    feed = decode(read("/.well-known/revoked"), "revoked+jwt")
    for gid, at in feed["revoked"].items():
        revoked[gid] = at + feed["exp"] - feed["iat"] + 60
    not_before = max(not_before, feed.get("not_before", 0))
    for gid in [gid for gid, dead in revoked.items() if dead < time.time()]:
        del revoked[gid]


def poll_forever():
    while True:
        time.sleep(10)
        try:
            poll()
        except Exception as e:  # go on with the keys and the grants that are known
            print(e)


class Hello(BaseHTTPRequestHandler):
    def do_GET(self):
        if time.monotonic() - keys_read > 900:
            # Without the keys the token may be valid. Do not answer 401: clients discard their tokens on it.
            self.send_response(503)
            self.end_headers()
            return
        try:
            claims = verify(re.sub("^Bearer ", "", self.headers.get("Authorization") or "", flags=re.IGNORECASE))
        except (jwt.PyJWTError, ValueError, RecursionError):
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Bearer error="invalid_token"')
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"Hello, {claims['sub']}, with the scopes {claims['scope']}.\n".encode())

    def log_message(self, *_):
        pass


for end in signal.SIGINT, signal.SIGTERM:
    signal.signal(end, lambda *_: sys.exit(0))
poll()
threading.Thread(target=poll_forever, daemon=True).start()
host, port = os.environ["LISTEN"].rsplit(":", 1)
ThreadingHTTPServer((host, int(port)), Hello).serve_forever()
