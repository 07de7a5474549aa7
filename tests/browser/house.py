"""A gateway with its backend in a directory of its own, and what every scenario says when something is not as it should be."""

import contextlib
import json
import random
import socket
import ssl
import subprocess
import tempfile
import time
import pathlib
import urllib.error
import urllib.request

# More than anything here takes on a slow machine; reached only when something hangs.
DEADLINE = 90
# Made-up packs of the stand-in, where the installation is the tenant's own.
PACKS = [f"pack_{number}" for number in range(1, 16)]
# EmptyImage to SaveImage, in the form that `POST /prompt` takes: the page draws it by itself.
QUICK = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 256, "height": 192, "batch_size": 1, "color": 1193046}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "page"}},
}
# Of the user `ada`, of the tenant `one`.
PASSWORD = "a lighthouse in the fog"
# Of a ComfyUI that somebody started: it has no models, and the probe nodes in their place.
PROBED = 'name = "probed"\nextends = "default"\n[classes]\nallow = ["GateProbeSleep"]\n'
# What a visitor of long standing has: without a kept workflow some versions of the page complain; without the setting they open on a list of templates.
SETTINGS = {"Comfy.TutorialCompleted": True}


class Failure(Exception):
    """What the page or the gateway did wrong."""


def expect(condition, text):
    if not condition:
        raise Failure(text)


def eventually(what, probe):
    end = time.monotonic() + DEADLINE
    while True:
        found = probe()
        if found:
            return found
        expect(time.monotonic() < end, f"{what}: not within {DEADLINE} s")
        time.sleep(0.1)


def free_port():
    """Below the ports that the system gives to outgoing connections, so that none of those takes it before the gateway does; and above those that browsers refuse (10080 is the last)."""
    while True:
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", random.randrange(10_100, 32_000)))
            return listener.getsockname()[1]


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


def ask(url, key=None, body=None, trust=None):
    """Status and body, by a program with a key."""
    headers = {"content-type": "application/json"} | ({"x-api-key": key} if key else {})
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), context=trust, timeout=DEADLINE) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read()


class House:
    """A gateway in front of one backend."""

    def __init__(self, binary, directory, backend):
        self.binary = binary
        self.directory = directory
        self.backend = backend
        self.url = f"https://localhost:{free_port()}"
        self.keys = {}
        # Where an identity provider is, if there is one.
        self.provider = None

    def configure(self, policy, tenants, more=""):
        """A policy that is a path is one beside the configuration."""
        port = self.url.rsplit(":", 1)[1]
        gateway = (
            f'public_url = "{self.url}"\n[[listen]]\naddress = "127.0.0.1:{port}"\n[metrics]\naddress = "127.0.0.1:{free_port()}"\n'
            f'[state]\ndir = "state"\n[[backends]]\nid = "gpu0"\nurl = "{self.backend}"\n[tenants]\nfile = "tenants.toml"\n[audit]\nfile = "audit.jsonl"\n'
        )
        plan = f'[[plan]]\nid = "page"\npolicy = "{policy}"\n'
        (self.directory / "gateway.toml").write_text(gateway + more)
        (self.directory / "tenants.toml").write_text(plan + "".join(f'[[tenant]]\nid = "{tenant}"\nplan = "page"\n' for tenant in tenants))

    def command(self, *arguments, given=None):
        """What a command of the gateway's operator prints."""
        call = [self.binary, *arguments, "--config", "gateway.toml"]
        done = subprocess.run(call, cwd=self.directory, capture_output=True, text=True, timeout=DEADLINE, input=given)
        expect(done.returncode == 0, f"comfygate {' '.join(arguments)}: {done.stderr}")
        return done.stdout.strip()

    def ask(self, path, tenant=None, body=None):
        trust = ssl.create_default_context(cafile=self.directory / "state/tls/ca.crt")
        return ask(self.url + path, self.keys.get(tenant), body, trust)

    def is_up(self):
        try:
            return self.ask("/gate/health")[0] == 200
        except (OSError, urllib.error.URLError):
            return False

    def run(self, tenant, workflow):
        """A run by a program, to its end. Its id."""
        status, answer = self.ask("/prompt", tenant, {"prompt": workflow})
        expect(status == 200, f"a program's run: {status} {answer}")
        prompt = json.loads(answer)["prompt_id"]
        eventually("the program's run", lambda: json.loads(self.ask(f"/history/{prompt}", tenant)[1]).get(prompt))
        return prompt

    def log(self):
        return (self.directory / "gateway.log").read_text()

    def first_link(self):
        file = self.directory / "state/first-link"
        return file.read_text().strip() if file.exists() else None


def furnish(send):
    """The kept workflow and the settings, by `send(path, body)`."""
    for path, body in (("/userdata/workflows%2Fkept.json", QUICK), ("/settings", SETTINGS)):
        status, answer = send(path, body)
        expect(status == 200, f"{path}: {status} {answer}")


@contextlib.contextmanager
def identity_provider(packages, house):
    """A real one, of npm, where `grace` is of the tenant `two`; and what the gateway's configuration says of it."""
    script = pathlib.Path(__file__).resolve().parents[1] / "oidc" / "provider.mjs"
    call = ["node", script, "--packages", packages, "--client-secret", "s3cret/+%", "--user", "grace:two"]
    call += ["--redirect-uri", house.url + "/gate/oidc/callback", "--post-logout-uri", house.url + "/gate/logout"]
    with running(call, stdout=subprocess.PIPE, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        issuer = json.loads(process.stdout.readline())["issuer"]
        (house.directory / "client_secret").write_text("s3cret/+%")
        yield issuer, (
            f'[[oidc]]\nid = "studio"\nname = "Studio"\nissuer = "{issuer}"\nclient_id = "gate"\nclient_secret = "file:client_secret"\n'
            'scopes = ["openid", "profile", "email"]\nalgorithms = ["RS256"]\ntenant_claim = "org_id"\nuser_claim = "sub"\n'
        )


@contextlib.contextmanager
def open_house(binaries, root, policy="default", backend=None, nobody=False, provider=None):
    """`root`: the page's files, for a stand-in; otherwise `backend` names a ComfyUI that runs. With `nobody` there is no key and no user. `provider` is the folder of an identity provider to start too.
    The house is closed, and its processes are ended, at the end."""
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="comfygate-page-")))
        ours = backend is None
        if ours:
            call = [binaries / "comfygate-stand-in", "--listen", "127.0.0.1:0", "--previews", "--web-root", root]
            call += ["--packs", str(len(PACKS))] if policy == "owner" else []
            backend = stack.enter_context(running(call, stdout=subprocess.PIPE, text=True)).stdout.readline().strip()
        # An installation that is its owner's has no second tenant, and one that nobody uses yet needs none.
        tenants = ["one"] if nobody or policy == "owner" else ["one", "two"]
        house = House(binaries / "comfygate", directory, backend)
        more = ""
        if not ours:
            policy = "probed.toml"
            (directory / policy).write_text(PROBED)
            (directory / "object_info.json").write_bytes(ask(backend + "/object_info")[1])
            more += '[catalogue]\nobject_info = "object_info.json"\n'
        if provider:
            house.provider, table = stack.enter_context(identity_provider(provider, house))
            more += table
        house.configure(policy, tenants, more)
        if not nobody:
            house.keys = {tenant: house.command("key", "create", "--tenant", tenant) for tenant in tenants}
            house.command("user", "add", "ada", "--tenant", "one", "--password-stdin", given=PASSWORD + "\n")
        log = stack.enter_context(open(directory / "gateway.log", "w"))
        stack.enter_context(running([house.binary, "serve", "--config", "gateway.toml"], cwd=directory, stdout=log, stderr=log))
        eventually("the gateway answers", house.is_up)
        if not nobody:
            eventually("a backend is up", lambda: house.ask("/system_stats", "one")[0] == 200)
            for tenant in tenants:
                furnish(lambda path, body, tenant=tenant: house.ask(path, tenant, body))
            furnish(lambda path, body: ask(house.backend + path, body=body))
        yield house
