"""Client libraries through the gateway, each as it comes from its registry, with a key.

Every one uploads a picture, runs a workflow that makes one and a workflow that turns the uploaded one, waits for the end in its own way, and downloads the results. What it downloads must be
byte for byte what a backend made: one of the files in the backends' `output` folders.

Usage: clients.py --binaries target/debug --libraries target/clients [NAME...]. COMFYUI_URLS=http://…,http://… names real ComfyUIs instead of stand-ins,
COMFYUI_DIRECTORIES=/…,/… the folders above their `output`.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zlib

HERE = pathlib.Path(__file__).resolve().parent
# More than anything here takes on a slow machine; reached only when something hangs.
DEADLINE = 90
LIBRARY_DEADLINE = 300
LIBRARIES = {"simplified": "simplified.py", "script": "script.py", "cli": "cli.py", "sdk": "sdk.mjs", "canvas": "canvas.mjs"}
WIDTH, HEIGHT = 96, 64
MAKE = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": WIDTH, "height": HEIGHT, "batch_size": 1, "color": 1193046}, "_meta": {"title": "Empty Image"}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "made"}, "_meta": {"title": "Save Image"}},
}
TURN = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "upload.png"}, "_meta": {"title": "Load Image"}},
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}, "_meta": {"title": "Invert Image"}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "turned"}, "_meta": {"title": "Save Image"}},
}


class Failure(Exception):
    """What a library or the gateway did wrong."""


def expect(condition, text):
    if not condition:
        raise Failure(text)


def eventually(what, probe):
    end = time.monotonic() + DEADLINE
    while not (found := probe()):
        expect(time.monotonic() < end, f"{what}: not within {DEADLINE} s")
        time.sleep(0.1)
    return found


def free_port():
    """Below the ports that the system gives to outgoing connections, so that none of those takes it before the gateway does."""
    while True:
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", random.randrange(10_000, 32_000)))
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


def png(colour):
    """A picture of one colour and of the size that every workflow here has."""
    rows = (b"\0" + bytes(colour) * WIDTH) * HEIGHT
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def first_pixel(content):
    """The first pixel of a PNG without interlacing: its row's filter is undone by itself, since nothing stands left of it or above."""
    data, at = b"", 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        if content[at + 4 : at + 8] == b"IDAT":
            data += content[at + 8 : at + 8 + length]
        at += 12 + length
    return tuple(zlib.decompress(data)[1:4])


class House:
    """Backends, and a gateway in front of them with one tenant for each library, in a directory of its own."""

    def __init__(self, binaries, directory, names):
        self.binary, self.directory, self.names = binaries / "comfygate", directory, names
        self.stand_in = binaries / "comfygate-stand-in"
        self.url = f"https://localhost:{free_port()}"

    def configure(self, backends):
        port = self.url.rsplit(":", 1)[1]
        gateway = (
            f'public_url = "{self.url}"\n[[listen]]\naddress = "127.0.0.1:{port}"\n[metrics]\naddress = "127.0.0.1:{free_port()}"\n'
            '[state]\ndir = "state"\n[tenants]\nfile = "tenants.toml"\n[audit]\nfile = "audit.jsonl"\n'
        )
        gateway += "".join(f'[[backends]]\nid = "gpu{number}"\nurl = "{url}"\n' for number, url in enumerate(backends))
        tenants = '[[plan]]\nid = "clients"\npolicy = "default"\n'
        tenants += "".join(f'[[tenant]]\nid = "{name}"\nplan = "clients"\n' for name in self.names)
        (self.directory / "gateway.toml").write_text(gateway)
        (self.directory / "tenants.toml").write_text(tenants)

    def key_of(self, tenant):
        command = [self.binary, "key", "create", "--tenant", tenant, "--config", "gateway.toml"]
        done = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, timeout=DEADLINE)
        expect(done.returncode == 0, f"no key for {tenant}: {done.stderr}")
        return done.stdout.strip()

    def ask(self, path, key=None):
        trust = ssl.create_default_context(cafile=self.directory / "state/tls/ca.crt")
        request = urllib.request.Request(self.url + path, headers={"x-api-key": key} if key else {})
        with urllib.request.urlopen(request, context=trust, timeout=DEADLINE) as answer:
            return json.load(answer)

    def is_up(self, key=None):
        try:
            return self.ask("/object_info/SaveImage", key) if key else self.ask("/gate/health")
        except (OSError, urllib.error.URLError):
            return None


def made_at(folders, since):
    """Contents that the backends wrote since then."""
    return {path.read_bytes() for folder in folders for path in (folder / "output").rglob("*.png") if path.stat().st_mtime >= since}


def run(name, house, libraries, folders, since):
    place = house.directory / name
    place.mkdir()
    (place / "plan.json").write_text(json.dumps({"make": MAKE, "turn": TURN}))
    # Colours that are turned round without rounding.
    (place / "upload.png").write_bytes(png((255, 0, 0)))
    script = HERE / LIBRARIES[name]
    if script.suffix == ".mjs":
        # Node looks for packages beside the script.
        (place / "node_modules").symlink_to(libraries / "npm/node_modules")
        (place / script.name).write_bytes(script.read_bytes())
        command = ["node", place / script.name]
    else:
        command = [libraries / "venv/bin/python", script]
    authority = str(house.directory / "state/tls/ca.crt")
    environment = os.environ | dict.fromkeys(["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"], authority)
    environment |= {"CLIENT_URL": house.url, "CLIENT_KEY": house.key_of(name), "NO_PROXY": "*", "no_proxy": "*"}
    try:
        done = subprocess.run([*command, place], cwd=place, env=environment, capture_output=True, text=True, timeout=LIBRARY_DEADLINE)
    except subprocess.TimeoutExpired as late:
        raise Failure(f"{name} did not end: {late.stdout}\n{late.stderr}") from late
    expect(done.returncode == 0, f"{name}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    made = made_at(folders, since)
    for result, pixel in {"made.png": (0x12, 0x34, 0x56), "turned.png": (0, 255, 255)}.items():
        content = (place / result).read_bytes()
        expect(first_pixel(content) == pixel, f"{name}: {result} shows {first_pixel(content)} instead of {pixel}")
        expect(content in made, f"{name}: {result} is not what a backend made")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binaries", type=pathlib.Path, required=True)
    parser.add_argument("--libraries", type=pathlib.Path, required=True)
    parser.add_argument("names", nargs="*", default=[], metavar="NAME")
    arguments = parser.parse_args()
    names = arguments.names or list(LIBRARIES)
    binaries, libraries = arguments.binaries.resolve(), arguments.libraries.resolve()
    real = [url for url in os.environ.get("COMFYUI_URLS", "").split(",") if url]
    real_folders = [pathlib.Path(folder) for folder in os.environ.get("COMFYUI_DIRECTORIES", "").split(",") if folder]
    if real and len(real_folders) != len(real):
        sys.exit("COMFYUI_DIRECTORIES must name the folder above `output` of each of COMFYUI_URLS: the results are compared with what lies there")
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="comfygate-clients-")))
        house = House(binaries, directory, names)
        backends, folders = real, real_folders
        if not real:
            ports = [free_port(), free_port()]
            backends = [f"http://127.0.0.1:{port}" for port in ports]
            folders = [directory / f"backend-{port}" for port in ports]
            for port, folder in zip(ports, folders):
                folder.mkdir()
                command = [house.stand_in, "--listen", f"127.0.0.1:{port}", "--tick", "0.1", "--directory", folder]
                stack.enter_context(running(command, stdout=subprocess.DEVNULL))
        house.configure(backends)
        log = stack.enter_context((directory / "log").open("w"))
        stack.enter_context(running([house.binary, "serve", "--config", "gateway.toml"], cwd=directory, stdout=log, stderr=log))
        try:
            eventually("the gateway answers", house.is_up)
            key = house.key_of(names[0])
            eventually("a backend is up", lambda: house.is_up(key))
            for name in names:
                begun = time.monotonic()
                run(name, house, libraries, folders, time.time() - 1)
                print(f"ok: {name} ({time.monotonic() - begun:.1f} s)", flush=True)
        except Failure as failure:
            audit = (directory / "audit.jsonl").read_text().splitlines()
            refused = "\n".join([line for line in audit if '"refused"' in line and '"no_backend"' not in line][-10:])
            sys.exit(f"{failure}\n-- the gateway's log --\n{(directory / 'log').read_text()[-4000:]}\n-- refusals --\n{refused}")


main()
