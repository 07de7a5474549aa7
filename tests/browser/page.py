"""The stock ComfyUI page through the gateway, in headless Chromium.

For each version of the page: log in by the gateway's own page, load a workflow, run it, see its picture by `<img>` through the cookie, log out in another tab,
and find the page's socket silent instead of opened again and again. No console error may come that plain ComfyUI does not cause too (recordings/).

Usage: page.py --binaries target/debug --pages target/browser [VERSION...]
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from playwright.sync_api import sync_playwright

HERE = pathlib.Path(__file__).resolve().parent
# More than anything here takes on a slow machine; reached only when something hangs.
DEADLINE = 90
# How long a page that opens its socket anew and anew is given to show it: it would every 300 ms.
LOOP_WATCH_MS = 3000
# A page that has asked for nothing for so long has loaded.
QUIET = 2
# Made-up packs of the stand-in, where the installation is the tenant's own.
PACKS = [f"pack_{number}" for number in range(1, 16)]
# EmptyImage to SaveImage, in the form that `POST /prompt` takes: the page draws it by itself.
WORKFLOW = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 256, "height": 192, "batch_size": 1, "color": 1193046}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "page"}},
}
APP = "(window.app ?? window.comfyAPI?.app?.app)"
API = "(window.comfyAPI?.api?.api ?? window.app?.api)"


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


class House:
    """A stand-in that serves the page's files, and a gateway in front of it, in a directory of its own."""

    def __init__(self, binaries, directory):
        self.binary = binaries / "comfygate"
        self.directory = directory
        self.url = f"https://localhost:{free_port()}"

    def configure(self, backend, policy):
        port = self.url.rsplit(":", 1)[1]
        config = {
            "gateway.toml": f'public_url = "{self.url}"\n[[listen]]\naddress = "127.0.0.1:{port}"\n'
            f'[metrics]\naddress = "127.0.0.1:{free_port()}"\n[state]\ndir = "state"\n'
            f'[[backends]]\nid = "gpu0"\nurl = "{backend}"\n[tenants]\nfile = "tenants.toml"\n[audit]\nfile = "audit.jsonl"\n',
            "tenants.toml": f'[[plan]]\nid = "page"\npolicy = "{policy}"\n[[tenant]]\nid = "local"\nplan = "page"\n',
        }
        for name, text in config.items():
            (self.directory / name).write_text(text)

    def command(self, *arguments):
        call = [self.binary, *arguments, "--config", "gateway.toml"]
        done = subprocess.run(call, cwd=self.directory, capture_output=True, text=True, timeout=DEADLINE)
        expect(done.returncode == 0, f"comfygate {' '.join(arguments)}: {done.stderr}")
        return done.stdout.strip()

    def ask(self, path, key=None, body=None):
        """Status and body, by a program with a key."""
        trust = ssl.create_default_context(cafile=self.directory / "state/tls/ca.crt")
        headers = {"content-type": "application/json"} | ({"x-api-key": key} if key else {})
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, context=trust, timeout=DEADLINE) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read()

    def is_up(self):
        try:
            return self.ask("/gate/health")[0] == 200
        except (OSError, urllib.error.URLError):
            return False


class Tab:
    """A page of the browser, and everything that it asked, heard and complained about."""

    def __init__(self, context, own):
        self.errors = []
        self.refused = []
        self.asked_at = time.monotonic()
        self.images = []
        self.sockets = []
        self.frames = []
        self.page = context.new_page()
        self.page.on("console", lambda line: line.type == "error" and self.errors.append(line.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("response", self.answered)
        self.page.on("request", self.asked)
        self.page.on("websocket", self.opened)
        self.own = own

    def asked(self, _request):
        self.asked_at = time.monotonic()

    def quiet(self):
        """Until the page has asked for nothing for a while. (Chromium counts an answer that a script leaves unread as one that is still coming, so its own idea of quiet is none.)"""
        end = time.monotonic() + DEADLINE
        while time.monotonic() - self.asked_at < QUIET:
            expect(time.monotonic() < end, f"the page still asks for things after {DEADLINE} s")
            self.page.wait_for_timeout(100)

    def answered(self, response):
        if response.status >= 400:
            self.refused.append(f"{response.status} {response.request.method} {response.url.removeprefix(self.own)}")
        if "/api/view" in response.url and response.request.resource_type == "image":
            self.images.append((response.status, response.request.headers.get("authorization")))

    def opened(self, opened):
        self.sockets.append(opened)
        opened.on("framereceived", lambda frame: self.frames.append(frame))


def log_in(tab, house, key):
    tab.page.goto(house.url + "/", wait_until="load")
    expect(tab.page.url == house.url + "/gate/login", f"the front page led to {tab.page.url}")
    tab.page.fill("#key", "cg_not_a_key")
    tab.page.click("button")
    tab.page.wait_for_selector("[role=alert]")
    expect(not tab.sockets, "the login page opened a socket")
    # A refused form is no fault of the page's.
    tab.errors.clear()
    tab.page.fill("#key", key)
    tab.page.click("button")
    tab.page.wait_for_url(house.url + "/")
    tab.page.wait_for_function(f"{APP}?.graph && {APP}.vueAppReady !== false", timeout=DEADLINE * 1000)
    tab.page.wait_for_function("Boolean(window.LiteGraph?.registered_node_types?.SaveImage)", timeout=DEADLINE * 1000)
    tab.page.wait_for_function(f"typeof {APP}.loadApiJson === 'function' && {API}?.socket?.readyState === 1", timeout=DEADLINE * 1000)
    # The page goes on loading after it shows: templates, subgraphs, jobs.
    tab.quiet()


def run_workflow(tab):
    nodes = f"({APP}.graph.nodes ?? {APP}.graph._nodes)"

    def is_loaded():
        # While it starts the page puts a graph of its own over ours, and knows no classes yet.
        here = f"() => ({nodes}.map((node) => node.type).sort().join() + ' ' + (({nodes}.find((node) => node.type === 'SaveImage')?.inputs?.[0]?.link ?? null) !== null))"
        if tab.page.evaluate(here) == "EmptyImage,SaveImage true":
            return True
        tab.page.evaluate(f"async (graph) => {{ await {APP}.loadApiJson(graph, 'page.json'); }}", WORKFLOW)
        tab.page.wait_for_timeout(1000)
        return False

    eventually("the workflow is on the page", is_loaded)
    tab.page.evaluate(f"async () => {{ await {APP}.queuePrompt(0, 1); }}")
    size = f"() => {nodes}.find((node) => node.type === 'SaveImage')?.imgs?.[0]?.naturalWidth"
    tab.page.wait_for_function(size, timeout=DEADLINE * 1000)
    width = tab.page.evaluate(size)
    expect(width == 256, f"the picture is {width} pixels wide")
    expect(tab.images and all(image == (200, None) for image in tab.images), f"pictures: {tab.images}")
    kinds = {json.loads(frame)["type"] for frame in tab.frames if isinstance(frame, str)}
    expect({"status", "executed", "executing"} <= kinds, f"the socket heard only {kinds}")


def refusal_is_marked(tab):
    """A workflow that the policy refuses: the page marks the node at fault, and no other."""
    nodes = f"({APP}.graph.nodes ?? {APP}.graph._nodes)"
    marked = f"() => {nodes}.filter((node) => node.has_errors || {APP}.lastNodeErrors?.[node.id]).map((node) => node.type).join()"
    expect(tab.page.evaluate(marked) == "", "a node was marked before")
    tab.page.evaluate(f"() => {{ {nodes}.find((node) => node.type === 'EmptyImage').widgets.find((widget) => widget.name === 'width').value = 5000; }}")
    tab.page.evaluate(f"async () => {{ await {APP}.queuePrompt(0, 1); }}")
    eventually("the refused node is marked", lambda: tab.page.evaluate(marked) == "EmptyImage")


def log_out(context, tab, house, key):
    other = context.new_page()
    other.goto(house.url + "/gate/logout")
    other.click("button")
    other.wait_for_url(house.url + "/gate/login")
    expect(other.inner_text("h1") == "Log in", other.content())
    # What came before the logout is heard by now.
    tab.page.wait_for_timeout(500)
    heard = len(tab.frames)
    # The same owner's next run, by a program: the page must hear nothing of it.
    status, answer = house.ask("/prompt", key, {"prompt": WORKFLOW | {"1": WORKFLOW["1"] | {"inputs": WORKFLOW["1"]["inputs"] | {"color": 7}}}})
    expect(status == 200, f"{status} {answer}")
    prompt = json.loads(answer)["prompt_id"]
    eventually("the program's run", lambda: json.loads(house.ask(f"/history/{prompt}", key)[1]).get(prompt))
    # As when the network is cut for a moment: the page opens its socket anew 300 ms later.
    tab.page.evaluate(f"() => {API}.socket.close()")
    tab.page.wait_for_timeout(LOOP_WATCH_MS)
    expect(len(tab.sockets) == 2, f"{len(tab.sockets)} sockets were opened, two are wanted: its first, and one after the cut")
    state = tab.page.evaluate(f"() => {API}.socket.readyState")
    expect(state == 1, f"the page's socket is in state {state}, not open")
    expect(tab.frames[heard:] == [], f"after the logout the page heard {tab.frames[heard:]}")
    status = tab.page.evaluate("async () => (await fetch('/api/queue')).status")
    expect(status == 401, f"a fetch after the logout: {status}")


def beyond_the_recorded(errors, version):
    """Errors that plain ComfyUI does not cause, by their first line; each as often as it may come. HTTP/2 has no words after its status."""
    recorded = json.loads((HERE / f"recordings/stock-page-{version}.json").read_text())["console_errors"]

    def first_line(text):
        return re.sub(r"(a status of \d+) \(.*\)$", r"\1", text.split("\n")[0])

    left = collections.Counter(map(first_line, errors))
    # What was recorded begins with the phase that it came in.
    left.subtract(collections.Counter(first_line(text.split(": ", 1)[1]) for text in recorded))
    return {text: count for text, count in left.items() if count > 0}


def packs_work(tab):
    """Each made-up pack's script was loaded, asked its route, and hears its event, which names no prompt."""
    tab.page.evaluate(
        f"async (names) => {{ for (const name of names) await {API}.fetchApi(`/${{name}}/hello`, "
        "{ method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ from: name }) }); }",
        PACKS,
    )
    heard = "(names) => names.every((name) => window.packs?.[name]?.hello?.hello === name && window.packs[name].events.some((event) => event.from === name))"
    tab.page.wait_for_function(heard, arg=PACKS, timeout=DEADLINE * 1000)


def try_page(browser, binaries, pages, version, policy):
    root = pages / f"page-{version}" / "comfyui_frontend_package" / "static"
    expect((root / "index.html").is_file(), f"`{root}` has no page: run `make browser`")
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="comfygate-page-")))
        backend = [binaries / "comfygate-stand-in", "--listen", "127.0.0.1:0", "--tick", "0.2", "--previews", "--web-root", root]
        backend += ["--packs", str(len(PACKS))] if policy == "owner" else []
        stand_in = stack.enter_context(running(backend, stdout=subprocess.PIPE, text=True))
        house = House(binaries, directory)
        house.configure(stand_in.stdout.readline().strip(), policy)
        key = house.command("key", "create", "--tenant", "local")
        log = stack.enter_context(open(directory / "gateway.log", "w"))
        try:
            stack.enter_context(running([house.binary, "serve", "--config", "gateway.toml"], cwd=directory, stdout=log, stderr=log))
            eventually("the gateway answers", house.is_up)
            eventually("a backend is up", lambda: house.ask("/system_stats", key)[0] == 200)
            # As on the recorded server: without it some versions complain that there are no workflows.
            status, answer = house.ask("/userdata/workflows%2Fkept.json", key, WORKFLOW)
            expect(status == 200, f"keeping a workflow: {status} {answer}")
            context = browser.new_context(ignore_https_errors=True)
            stack.callback(context.close)
            # The page asks its maker for releases and the like; nothing outside is reached from here.
            context.route(lambda url: not url.startswith((house.url, "data:", "blob:")), lambda route: route.abort())
            tab = Tab(context, house.url)
            log_in(tab, house, key)
            run_workflow(tab)
            if policy == "owner":
                packs_work(tab)
            extra = beyond_the_recorded(tab.errors, version)
            expect(not extra, f"console errors that plain ComfyUI does not cause: {extra}; refused were {tab.refused}")
            if policy == "default":
                refusal_is_marked(tab)
            log_out(context, tab, house, key)
        except Exception:
            log.flush()
            if shots := os.environ.get("COMFYGATE_SHOTS"):
                for number, page in enumerate(page for context in browser.contexts for page in context.pages):
                    page.screenshot(path=f"{shots}/page-{version}-{number}.png")
            sys.stderr.write((directory / "gateway.log").read_text()[-4000:])
            raise


def browser_path():
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    raise Failure("there is no chromium: run `make browser`")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--binaries", type=pathlib.Path, required=True, help="folder of comfygate and comfygate-stand-in")
    arguments.add_argument("--pages", type=pathlib.Path, required=True, help="folder that `make browser` has filled")
    arguments.add_argument("versions", nargs="+", help="of comfyui-frontend-package")
    given = arguments.parse_args()
    failed = 0
    with sync_playwright() as playwright:
        # Root has no sandbox of its own to give; the page is served by this machine.
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=browser_path(), args=flags)
        tries = [(version, policy) for version in given.versions for policy in ("default", "owner")]
        for version, policy in tries:
            began = time.monotonic()
            try:
                try_page(browser, given.binaries.resolve(), given.pages.resolve(), version, policy)
                print(f"ok: page {version}, policy {policy}, in {time.monotonic() - began:.0f} s", flush=True)
            except Exception as error:
                failed += 1
                print(f"FAILED: page {version}, policy {policy}: {error}", file=sys.stderr, flush=True)
        browser.close()
    print(f"{len(tries) - failed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
