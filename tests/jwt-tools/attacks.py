"""Public tools that forge tokens, against a gateway with issuers of RS256, ES256 and HS256.

Each tool is given a good token of each issuer and makes what it can of it. Every forged token must be refused with 401 and the one text that all refusals have, and the good ones must pass before and after.
What can't be sent in a header at all (line ends, other than ASCII) is counted apart.

Usage: attacks.py --binaries target/debug --tools target/jwt-tools. Runs with the Python of the tools' virtual environment.
"""

import argparse
import base64
import collections
import contextlib
import functools
import http.client
import http.server
import importlib
import json
import os
import pathlib
import random
import secrets
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

# More than anything here takes on a slow machine; reached only when something hangs.
DEADLINE = 90
TOOL_DEADLINE = 300
KIDS = ["../../../../../../dev/null", "/dev/null", "/proc/sys/kernel/randomize_va_space", "x' UNION SELECT 'key'-- -", "key' OR '1'='1", "| sleep 5", "http://127.0.0.1:9/key", ""]


class Failure(Exception):
    """What the gateway or a tool did wrong."""


def expect(condition, text):
    if not condition:
        raise Failure(text)


def free_port():
    """Below the ports that the system gives to outgoing connections, so that none of those takes it before the gateway does."""
    while True:
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", random.randrange(10_000, 32_000)))
            return listener.getsockname()[1]


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Signs good tokens by one algorithm."""

    def __init__(self, algorithm):
        self.algorithm, self.url = algorithm, f"https://{algorithm.lower()}.example.com/"
        if algorithm == "RS256":
            self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        elif algorithm == "ES256":
            self.key = ec.generate_private_key(ec.SECP256R1())
        else:
            self.key = secrets.token_urlsafe(48)

    def verifier(self):
        """What the gateway is given: the public key in PEM, or the secret."""
        if self.algorithm == "HS256":
            return self.key
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()

    def configuration(self, file):
        name = "secret" if self.algorithm == "HS256" else "key_file"
        value = f"file:{file}" if self.algorithm == "HS256" else file
        return f'[[jwt]]\nissuer = "{self.url}"\naudience = "comfygate"\nalgorithms = ["{self.algorithm}"]\n{name} = "{value}"\ntenant_claim = "org_id"\n'

    def signature(self, message):
        if self.algorithm == "RS256":
            return self.key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        if self.algorithm == "ES256":
            r, s = utils.decode_dss_signature(self.key.sign(message, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        by = hmac.HMAC(self.key.encode(), hashes.SHA256())
        by.update(message)
        return by.finalize()

    def token(self, **header):
        now = int(time.time())
        claims = {"iss": self.url, "aud": "comfygate", "sub": "ada", "org_id": "acme", "iat": now, "exp": now + 3600}
        head = {"alg": self.algorithm, "typ": "JWT", **header}
        message = f"{b64(json.dumps(head).encode())}.{b64(json.dumps(claims).encode())}"
        return f"{message}.{b64(self.signature(message.encode()))}"


class KeyServer(http.server.BaseHTTPRequestHandler):
    """What jku and x5u of a good token lead to: a set from which the tool makes its own."""

    def do_GET(self):
        body = json.dumps({"keys": [{"kty": "RSA", "kid": "a", "use": "sig", "n": "AQAB", "e": "AQAB", "x5c": ["MIIB"]}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def by_myjwt(issuer, directory, keys_url):
    """Pairs of what the attack is and a forged token."""
    sys.path.insert(0, str(directory))
    attack, modify, tools = (importlib.import_module(f"myjwt.{name}") for name in ["vulnerabilities", "modify_jwt", "utils"])
    good = issuer.token()
    yield "none", attack.none_vulnerability(good)
    material = directory / f"{issuer.algorithm}.public"
    material.write_text(issuer.verifier() if issuer.algorithm != "HS256" else "")
    yield "confusion", attack.confusion_rsa_hmac(good, str(material))
    # It signs by HMAC only.
    by_hmac = tools.encode_jwt(modify.change_alg(tools.jwt_to_json(good), "HS256")) + "." + good.rsplit(".", 1)[1]
    for kid in KIDS:
        yield "kid", attack.inject_sql_kid(by_hmac, kid)
    place = os.getcwd()
    # It writes the key set that is to be served elsewhere into the current folder.
    os.chdir(directory)
    try:
        yield "jku", attack.jku_vulnerability(issuer.token(jku=keys_url), "https://evil.example.com/")
        yield "x5u", attack.x5u_vulnerability(issuer.token(x5u=keys_url), "https://evil.example.com/")
    finally:
        os.chdir(place)
    for change in [{"sub": "admin"}, {"org_id": "bravo"}, {"scope": "admin"}, {"exp": 4102444800}]:
        taken = modify.add_payload(tools.jwt_to_json(good), change)
        # Once with the signature of the good token, once signed with nothing, once with no signature.
        yield "claims", f"{tools.encode_jwt(taken)}.{good.rsplit('.', 1)[1]}"
        yield "claims", modify.signature(modify.change_alg(taken, "HS256"), "")
        yield "claims", f"{tools.encode_jwt(taken)}."


def by_jwt_hack(issuer, binary):
    """All that its command `payload` makes."""
    command = [binary, "--json", "payload", issuer.token(), "--jwk-attack", "evil.example.com", "--jwk-trust", "id.example.com"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_DEADLINE)
    expect(done.returncode == 0, f"jwt-hack: {done.stdout}\n{done.stderr}")
    made = json.loads(done.stdout)["payloads"]
    expect(len(made) > 100 and all(isinstance(token, str) for token in made), f"jwt-hack made something that is not understood here: {made}")
    for token in made:
        yield f"payload, {kind(token)}", token


def kind(token):
    """What a forged token tries, by its header: the members beside the usual ones, else its algorithm."""
    try:
        head = token.split(".")[0]
        header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
        further = sorted(set(header) - {"alg", "typ"})
        return f"with {' and '.join(further)}" if further else f"alg {header['alg']!r}"
    except (ValueError, TypeError, KeyError, AttributeError):
        return "no header that can be read"


class Gateway:
    """One with three issuers and no backend that answers."""

    def __init__(self, binary, directory, issuers):
        self.binary, self.directory, self.port = binary, directory, free_port()
        text = (
            f'[[listen]]\naddress = "127.0.0.1:{self.port}"\n[metrics]\naddress = "127.0.0.1:{free_port()}"\n[state]\ndir = "state"\n[tenants]\nfile = "tenants.toml"\n'
            # Guessing is what this test does, all of it from one address.
            f'[audit]\nfile = "audit.jsonl"\n[limits]\nfailed_logins_free = 1000000\n[[backends]]\nid = "none"\nurl = "http://127.0.0.1:{free_port()}"\n'
        )
        for issuer in issuers:
            (directory / f"{issuer.algorithm}.key").write_text(issuer.verifier())
            (directory / f"{issuer.algorithm}.key").chmod(0o600)
            text += issuer.configuration(f"{issuer.algorithm}.key")
        (directory / "gateway.toml").write_text(text)
        plan = '[[plan]]\nid = "all"\npolicy = "default"\n'
        (directory / "tenants.toml").write_text(plan + "".join(f'[[tenant]]\nid = "{name}"\nplan = "all"\n' for name in ["acme", "bravo"]))

    @functools.cached_property
    def trust(self):
        return ssl.create_default_context(cafile=self.directory / "state/tls/ca.crt")

    def ask(self, token):
        """Status, and the body without what differs in every answer."""
        connection = http.client.HTTPSConnection("localhost", self.port, context=self.trust, timeout=DEADLINE)
        with contextlib.closing(connection):
            connection.request("GET", "/gate/me", headers={"authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            body = json.loads(answer.read())
        body.pop("request_id", None)
        return answer.status, json.dumps(body, sort_keys=True)


@contextlib.contextmanager
def running(command, **options):
    process = subprocess.Popen(command, **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def let_in(gateway, issuers, when):
    for issuer in issuers:
        status, body = gateway.ask(issuer.token())
        expect(status == 200, f"{when}, a good token of {issuer.algorithm} got {status}: {body}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binaries", type=pathlib.Path, required=True)
    parser.add_argument("--tools", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    binary, jwt_hack = arguments.binaries.resolve() / "comfygate", arguments.tools.resolve() / "bin/jwt-hack"
    issuers = [Issuer(algorithm) for algorithm in ["RS256", "ES256", "HS256"]]
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="comfygate-jwt-")))
        gateway = Gateway(binary, directory, issuers)
        keys = http.server.ThreadingHTTPServer(("127.0.0.1", 0), KeyServer)
        threading.Thread(target=keys.serve_forever, daemon=True).start()
        stack.callback(keys.shutdown)
        log = stack.enter_context((directory / "log").open("w"))
        stack.enter_context(running([binary, "serve", "--config", "gateway.toml"], cwd=directory, stdout=log, stderr=log))
        try:
            end = time.monotonic() + DEADLINE
            while True:
                try:
                    gateway.ask("x")
                    break
                except (OSError, FileNotFoundError):
                    expect(time.monotonic() < end, "the gateway does not answer")
                    time.sleep(0.1)
            let_in(gateway, issuers, "before")
            forged, by_attack, unsendable, texts = 0, collections.Counter(), 0, set()
            for issuer in issuers:
                made = [("myjwt", *pair) for pair in by_myjwt(issuer, directory, f"http://127.0.0.1:{keys.server_port}/keys")]
                if jwt_hack.exists():
                    made += [("jwt-hack", *pair) for pair in by_jwt_hack(issuer, jwt_hack)]
                for tool, attack, token in made:
                    try:
                        token.encode("ascii")
                        status, body = gateway.ask(token)
                    except (UnicodeEncodeError, ValueError):
                        unsendable += 1
                        continue
                    expect(status == 401, f"{tool} {attack} of {issuer.algorithm} got {status}: {body}\n{token}")
                    texts.add(body)
                    forged += 1
                    by_attack[f"{tool} {attack}"] += 1
            expect(len(texts) == 1, f"refusals tell what was wrong: {texts}")
            expect(forged >= 60, f"only {forged} tokens were forged")
            let_in(gateway, issuers, "after")
        except Failure as failure:
            sys.exit(f"{failure}\n-- the gateway's log --\n{(directory / 'log').read_text()[-4000:]}")
    for attack, count in sorted(by_attack.items()):
        print(f"refused: {attack}: {count}")
    print(f"ok: {forged} forged tokens of three issuers are refused with one text, {unsendable} can't be sent in a header, the good ones pass")
    if not jwt_hack.exists():
        print("skipped: jwt-hack's forged tokens: it is not installed (make jwt-tools WITH=jwt-hack, some minutes)")


main()
