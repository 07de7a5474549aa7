"""The gateway's own pages: the ways in and out, and what holds for each of them. Each scenario is a function by its name."""

import html

from playwright.sync_api import TimeoutError

from house import PASSWORD, expect

# The level that the pages are held to, and what its makers recommend besides.
AXE_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# The first packets of a connection carry that much: no page of ours takes a second round trip.
WEIGHT_MAX = 14_000
KEY_FORM = "form:has(#key)"
# A login leads to the stock page, whose loading counts in none of the scenarios here.
AT_ONCE = "commit"


def log_in(tab, url, key):
    """By the front page, which leads to the login; a wrong key first."""
    tab.page.goto(url + "/", wait_until="load")
    expect(tab.page.url == url + "/gate/login", f"the front page led to {tab.page.url}")
    with_key(tab, "cg_not_a_key")
    tab.page.wait_for_selector("[role=alert]")
    expect(tab.page.evaluate("() => window.opened ?? 0") == 0, "the login page opened a socket")
    # A refused form is no fault of the page's.
    tab.complaints.clear()
    tab.refused.clear()
    with_key(tab, key)
    tab.page.wait_for_url(url + "/")


def with_key(tab, key):
    tab.page.locator("#key").fill(key)
    tab.press(f"{KEY_FORM} button")


def forget_alert(tab):
    """What this page tells is no alert any more: the next one is the answer's."""
    tab.page.evaluate("() => document.querySelector('[role=alert]')?.removeAttribute('role')")


def at_login(stage, query="", **more):
    tab = stage.tab(stage.context(**more))
    tab.page.goto(f"{stage.house.url}/gate/login{query}")
    return tab


def a_key_that_is_no_good(stage):
    """One text for all that are not accepted, told where a screen reader says it at once; the next try is in the same form."""
    tab = at_login(stage)
    told = set()
    for key in ("cg_not_a_key", stage.house.keys["one"][:-1] + "?", "Bearer"):
        forget_alert(tab)
        with_key(tab, key)
        tab.page.wait_for_selector("[role=alert]")
        told.add(tab.page.inner_text("[role=alert]"))
        expect(tab.page.input_value("#key") == "", "the page gives a refused key back")
    stage.shot(tab, "1-told")
    expect(len(told) == 1 and "not accepted" in next(iter(told)), f"told was {told}")
    with_key(tab, stage.house.keys["one"])
    tab.page.wait_for_url(stage.house.url + "/", wait_until=AT_ONCE)


def where_a_login_leads(stage):
    """To the address of ours that was asked for; to the front page in place of anybody else's."""
    for wanted, led in (("/queue", "/queue"), ("//elsewhere.example/", "/"), ("https://elsewhere.example/", "/"), ("/\\elsewhere.example", "/")):
        tab = at_login(stage, "?next=" + wanted.replace("\\", "%5C"))
        with_key(tab, stage.house.keys["one"])
        tab.page.wait_for_url(lambda url: "/gate/login" not in url, wait_until=AT_ONCE)
        expect(tab.page.url == stage.house.url + led, f"`next={wanted}` led to {tab.page.url}")
        tab.page.context.close()


def without_scripts(stage):
    """In and out with JavaScript off, by keys: where nothing runs in a page, Playwright finds no place to press in Firefox either."""
    for last in (False, False, True):
        tab = at_login(stage, "?next=/queue", java_script_enabled=False)
        # The name has the focus once the page is drawn, which nothing tells without scripts: what is typed before is lost.
        tab.page.keyboard.type("ada")
        tab.page.keyboard.press("Tab")
        tab.page.keyboard.type(PASSWORD)
        tab.page.keyboard.press("Enter")
        try:
            tab.page.wait_for_url(stage.house.url + "/queue", timeout=90_000 if last else 20_000)
            break
        except TimeoutError:
            if last:
                raise
    tab.page.goto(stage.house.url + "/gate/logout")
    tab.page.keyboard.press("Tab")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_url(stage.house.url + "/gate/login")
    tab.page.goto(stage.house.url + "/gate/logout")
    expect(tab.page.url == stage.house.url + "/gate/login", f"after the logout /gate/logout led to {tab.page.url}")


def by_keyboard_alone(stage):
    """The first field has the focus; Tab goes through all that can be used, in order, and shows where it is; Enter logs in."""
    tab = at_login(stage, "?next=/queue")
    usable = "() => [...document.querySelectorAll('a[href], input, button')]"
    count = tab.page.evaluate(f"{usable.replace('() => ', '() => (')}).length")
    focus = f"() => [({usable})().indexOf(document.activeElement), getComputedStyle(document.activeElement).outlineStyle]"
    first, _ = tab.page.evaluate(focus)
    expect(first >= 0, "nothing has the focus")
    visited = []
    for _ in range(count - first):
        visited.append(tab.page.evaluate(focus))
        tab.page.keyboard.press("Tab")
    expect([place for place, _ in visited] == list(range(first, count)), f"Tab went to {visited}")
    expect(all(outline != "none" for _, outline in visited), f"what has the focus does not show: {visited}")
    tab.page.reload()
    for _ in range(count):
        if tab.page.evaluate("() => document.activeElement.id") == "key":
            break
        tab.page.keyboard.press("Tab")
    tab.page.keyboard.type(stage.house.keys["one"])
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_url(stage.house.url + "/queue")


def foreign_forms(stage):
    """Another site's page logs nobody in or out, and opens no socket: not under its own name, and not under none."""
    tab = at_login(stage, "?next=/queue")
    with_key(tab, stage.house.keys["one"])
    tab.page.wait_for_url(stage.house.url + "/queue")
    foreign = stage.house.backend
    page = tab.page.context.new_page()
    tab.page.context.unroute_all()
    for path, fields in (("/gate/login", {"key": stage.house.keys["two"]}), ("/gate/logout", {})):
        inputs = "".join(f'<input name="{name}" value="{html.escape(value)}">' for name, value in fields.items())
        form = f'<form method="post" action="{stage.house.url}{path}">{inputs}<button>Win</button></form>'
        for origin in (foreign + "/system_stats", "about:blank"):
            page.goto(origin)
            page.evaluate("(form) => { document.body.innerHTML = form; }", form)
            with page.expect_response(lambda answer, path=path: answer.url == stage.house.url + path) as answer:
                page.click("button")
            expect(answer.value.status == 403, f"{path} by a form at {origin}: {answer.value.status}")
    page.goto(foreign + "/system_stats")
    socket = "(url) => new Promise((resolve) => { const socket = new WebSocket(url); socket.onopen = () => resolve('open'); socket.onerror = () => resolve('refused'); })"
    state = page.evaluate(socket, stage.house.url.replace("https", "wss") + "/ws")
    expect(state == "refused", f"another site's socket is {state}")
    status = tab.page.evaluate("async () => (await fetch('/queue')).status")
    expect(status == 200, f"the session did not survive another site's forms: {status}")


def fault(violation):
    return f"{violation['id']}: {violation['help']} at {[node['target'] for node in violation['nodes']]}"


def check(stage, tab, what):
    """What axe finds, the weight, and who was asked: on a page of ours, as it is shown now."""
    tab.page.evaluate(stage.axe.read_text())
    # Without this, a browser that ignores what it was told would be held to the other colours twice.
    if "dark" in what or "light" in what:
        dark = tab.page.evaluate("() => matchMedia('(prefers-color-scheme: dark)').matches")
        expect(dark == ("dark" in what), f"{what}: the browser shows the other colours")
    found = tab.page.evaluate("async (tags) => (await axe.run(document, { runOnly: { type: 'tag', values: tags } })).violations", AXE_RULES)
    stage.shot(tab, what)
    expect(not found, f"{what}: {[fault(violation) for violation in found]}")
    wide = tab.page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth")
    expect(wide <= 0, f"{what} is {wide} pixels wider than the window")
    weight = tab.page.evaluate("() => new TextEncoder().encode(document.documentElement.outerHTML).length")
    expect(weight <= WEIGHT_MAX, f"{what} weighs {weight} bytes")
    return weight


def fit_for_everybody(stage):
    """Every page of ours, with and without a message, in light and in dark: no fault by axe (WCAG 2.1 AA), nothing from elsewhere, no script, and light enough for the first packets."""
    weights = {}
    for scheme in ("light", "dark"):
        tab = at_login(stage, color_scheme=scheme)
        weights["login"] = check(stage, tab, f"login-{scheme}")
        asked = [url for url in tab.asked if not url.startswith("data:")]
        expect(asked == [stage.house.url + "/gate/login"], f"the login page asked for {asked}")
        expect(tab.page.evaluate("() => document.scripts.length") == 0, "the login page has a script")
        with_key(tab, "cg_not_a_key")
        tab.page.wait_for_selector("[role=alert]")
        check(stage, tab, f"login-refused-{scheme}")
        with_key(tab, stage.house.keys["one"])
        tab.page.wait_for_url(stage.house.url + "/", wait_until=AT_ONCE)
        for path in ("/gate/logout", "/gate/sessions"):
            tab.page.goto(stage.house.url + path)
            expect(tab.page.url == stage.house.url + path, f"{path} led to {tab.page.url}")
            weights[path] = check(stage, tab, f"{path.rsplit('/', 1)[1]}-{scheme}")
        tab.page.context.close()
    print(f"   bytes of a page: {weights}", flush=True)


EVERYWHERE = [a_key_that_is_no_good, where_a_login_leads, without_scripts, by_keyboard_alone, foreign_forms, fit_for_everybody]
