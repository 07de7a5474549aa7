"""The browsers: Debian's Chromium and Firefox, and Chromium with the window, the pixels and the fingers of a phone.

Playwright drives Debian's Firefox by WebDriver BiDi, under the channel `moz-firefox`; its own Firefox is a patched one that Debian does not have.
"""

import collections
import contextlib
import os
import re
import shutil
import time

from house import DEADLINE, Failure, expect

NAMES = ("chromium", "firefox", "phone")
PHONE = "Pixel 7"
# A page that has asked for nothing for so long has loaded.
QUIET = 2
# Playwright tells of sockets in Chromium only: the page itself counts them and keeps what they hear.
HEAR_SOCKETS = """
window.heard = [];
window.opened = 0;
window.WebSocket = class extends WebSocket {
  constructor(...given) {
    super(...given);
    window.opened += 1;
    this.addEventListener('message', (event) => window.heard.push(typeof event.data === 'string' ? event.data : 'binary'));
  }
};
"""


def first_of(*names):
    for name in names:
        if found := shutil.which(name):
            return found
    raise Failure(f"there is no {names[0]}: run `make browser`")


# What Firefox does only if it is started so: WebDriver BiDi has no word for it yet.
FIREFOX_SETTINGS = {
    ("color_scheme", "dark"): {"layout.css.prefers-color-scheme.content-override": 0},
    ("java_script_enabled", False): {"javascript.enabled": False},
}


def launch(playwright, name, settings=None):
    if name == "firefox":
        return playwright.firefox.launch(executable_path=first_of("firefox-esr", "firefox"), channel="moz-firefox", firefox_user_prefs=settings)
    # Root has no sandbox of its own to give; the page is served by this machine.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    return playwright.chromium.launch(executable_path=first_of("chromium", "chromium-browser", "google-chrome"), args=flags)


def options(playwright, name):
    """Of a context. The gateway's certificate is its own authority's."""
    given = {"ignore_https_errors": True}
    if name == "phone":
        given |= {key: value for key, value in playwright.devices[PHONE].items() if key != "default_browser_type"}
    return given


class Tab:
    """A page of the browser, and everything that it asked, was refused and complained about."""

    def __init__(self, context, own, touch):
        self.own = own
        self.touch = touch
        self.complaints = []
        self.refused = []
        self.asked = []
        self.asked_at = time.monotonic()
        self.images = []
        self.page = context.new_page()
        self.page.set_default_timeout(DEADLINE * 1000)
        self.page.add_init_script(HEAR_SOCKETS)
        self.page.on("console", self.said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self.asks)
        self.page.on("response", self.answered)

    def said(self, line):
        # Chromium has such a line for each answer that is no 2xx; `refused` has those, with their paths and in every browser.
        if line.type == "error" and not line.text.startswith("Failed to load resource"):
            self.complaints.append(line.text)

    def asks(self, request):
        self.asked_at = time.monotonic()
        self.asked.append(request.url)

    def answered(self, response):
        if response.status >= 400:
            self.refused.append(f"{response.status} {response.request.method} {response.url.removeprefix(self.own)}")
        if "/api/view" in response.url and response.request.resource_type == "image":
            self.images.append((response.status, response.request.headers.get("authorization")))

    def errors(self):
        """What went wrong, told so that it can be compared with another server's: each kind once, without hosts, versions of files and identifiers. What the page asks of other hosts
        is refused by us, and each browser has words of its own for that."""
        lines = self.refused + [text.split("\n")[0] for text in self.complaints]
        kinds = set()
        for line in lines:
            line = line.replace(self.own, "")
            if re.search(r"https?://", line) or "NetworkError" in line:
                continue
            kinds.add(re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|clientId=[^&]*", "…", line))
        return kinds

    def heard(self):
        return self.page.evaluate("() => window.heard")

    def quiet(self):
        """Until the page has asked for nothing for a while. (Chromium counts an answer that a script leaves unread as one that is still coming, so its own idea of quiet is none.)"""
        end = time.monotonic() + DEADLINE
        while time.monotonic() - self.asked_at < QUIET:
            expect(time.monotonic() < end, f"the page still asks for things after {DEADLINE} s")
            self.page.wait_for_timeout(100)

    def press(self, selector):
        """As whoever sits there does it: with a finger on a phone, with a mouse elsewhere."""
        button = self.page.locator(selector).first
        button.tap() if self.touch else button.click()

    def press_at(self, x, y):
        self.page.touchscreen.tap(x, y) if self.touch else self.page.mouse.click(x, y)


class Stage:
    """One browser in front of one house: what a scenario is given."""

    def __init__(self, playwright, browser, name, house, watched, shots, stack):
        self.playwright = playwright
        self.browser = browser
        self.name = name
        self.house = house
        self.watched = watched
        self.shots = shots
        self.stack = stack
        # Pages that are loaded, by tenant.
        self.tabs = {}
        self.scenario = ""

    def context(self, own=None, also=(), **more):
        """A browser context without any cookie; nothing outside of `own`, and what is named besides, is reached from it."""
        reached = (own or self.house.url, *also, "data:", "blob:")
        browser = self.browser
        if self.name == "firefox" and (settings := [FIREFOX_SETTINGS[option] for option in more.items() if option in FIREFOX_SETTINGS]):
            browser = launch(self.playwright, self.name, dict(collections.ChainMap(*settings)))
            self.stack.callback(browser.close)
        context = browser.new_context(**(options(self.playwright, self.name) | more))
        self.stack.callback(context.close)
        # The page asks its maker for releases and the like.
        context.route(lambda url: not url.startswith(reached), lambda route: route.abort())
        return context

    def tab(self, context=None, own=None):
        return Tab(context or self.context(own), own or self.house.url, self.name == "phone")

    def shot(self, tab, what):
        self.shots.mkdir(parents=True, exist_ok=True)
        tab.page.screenshot(path=self.shots / f"{self.scenario}-{what}.png", animations="disabled")

    def shoot_all(self):
        """What every open page shows, after a failure."""
        self.shots.mkdir(parents=True, exist_ok=True)
        for number, page in enumerate(page for context in self.browser.contexts for page in context.pages):
            # Whatever is wrong with a page, the failure itself is what has to be told.
            with contextlib.suppress(Exception):
                page.screenshot(path=self.shots / f"{self.scenario}-FAILED-{number}.png", timeout=10_000)
