"""What a visitor does in the stock page behind the gateway. Each function is a scenario by its name, in this order: the page is loaded once a tenant and used on."""

import json

import actions
from actions import API, ASSETS, INVERTED, QUEUE
from browsers import Tab
from gate import log_in
from house import PACKS, QUICK, eventually, expect

# How long a page that opens its socket anew and anew is given to show it: it would every 300 ms.
LOOP_WATCH_MS = 3000
SAVE = "button[aria-label=Download]"
LINK = "(url) => { const link = document.createElement('a'); [link.href, link.download] = [url, 'saved.png']; link.click(); }"
UPLOADED = actions.png(96, 64, (250, 120, 10))


def page_of(stage, tenant) -> Tab:
    """The tenant's page, logged in by key and loaded; the same one in every scenario."""
    if tenant not in stage.tabs:
        tab = stage.tab()
        log_in(tab, stage.house.url, stage.house.keys[tenant])
        actions.is_loaded(tab)
        stage.tabs[tenant] = tab
    return stage.tabs[tenant]


def visit(stage, tab, where):
    """Loads the text-to-picture workflow, runs it by its button, looks at what comes and opens the panels."""
    actions.draw(tab, stage.watched.workflow)
    stage.shot(tab, f"{where}-1-drawn")
    picture = actions.run_and_watch(tab, stage.watched, lambda: stage.shot(tab, f"{where}-2-runs"))
    expect(picture["width"] == 256, f"the picture is {picture['width']} pixels wide")
    stage.shot(tab, f"{where}-3-picture")
    for name, panel in (("assets", ASSETS), ("queue", QUEUE)):
        with actions.opened(tab, panel):
            # The newest page asks for more of a list of jobs than ComfyUI 0.8.0 has, and then shows nothing: the gateway has the list from its own ledger.
            if where == "gateway":
                actions.shown_in(tab, panel)
            stage.shot(tab, f"{where}-4-{name}")
    tab.quiet()


def a_run_by_its_button(stage):
    """Progress and previews come, the picture shows on its node and in both panels; and nothing goes wrong that does not go wrong in front of the backend alone, in the same browser."""
    plain = stage.tab(own=stage.house.backend)
    plain.page.goto(stage.house.backend + "/", wait_until="load")
    actions.is_loaded(plain)
    visit(stage, plain, "plain")
    # Its socket would hear the gateway's runs.
    plain.page.close()
    tab = page_of(stage, "one")
    visit(stage, tab, "gateway")
    expect(tab.images and all(image == (200, None) for image in tab.images), f"pictures: {tab.images}")
    kinds = {json.loads(frame)["type"] for frame in tab.heard() if frame != "binary"}
    expect({"status", "executed", "executing"} <= kinds and "binary" in tab.heard(), f"the socket heard only {kinds}")
    extra = tab.errors() - plain.errors()
    expect(not extra, f"errors that the backend alone does not cause: {extra}; those that it does: {plain.errors()}")


def an_upload_by_its_widget(stage):
    """A picture chosen in LoadImage's own file dialog is stored, is shown there, and is what the next run works on."""
    tab = page_of(stage, "one")
    actions.draw(tab, INVERTED)
    name = actions.choose_file(tab, "orange.png", UPLOADED)
    shown = eventually("the uploaded picture shows on its node", lambda: actions.picture_of(tab, "LoadImage"))
    expect(shown["width"] == 96 and shown["colour"] == [250, 120, 10, 255], f"{name} shows as {shown}")
    stage.shot(tab, "1-chosen")
    made = actions.run(tab)
    # ComfyUI counts in fractions and cuts them off.
    near = all(abs(made_of - wanted) <= 1 for made_of, wanted in zip(made["colour"], [5, 135, 245, 255]))
    expect(made["width"] == 96 and near, f"the run made {made}")
    stage.shot(tab, "2-inverted")


def a_download(stage):
    """A picture is saved by the page's own button (or, where this version of the page has none to press, by a link as the page makes it): the cookie alone opens it."""
    tab = page_of(stage, "one")
    actions.draw(tab, QUICK)
    actions.vary(tab, "SaveImage", "filename_prefix", "saved")
    source = actions.run(tab)["source"]
    with actions.opened(tab, ASSETS):
        actions.shown_in(tab, ASSETS)
        with tab.page.expect_download() as coming:
            # The button comes with the mouse.
            tab.page.locator(ASSETS[1]).first.hover()
            if not tab.touch and tab.page.query_selector(SAVE):
                tab.press(SAVE)
            else:
                tab.page.evaluate(LINK, source)
    saved = coming.value.path().read_bytes()
    expect(saved.startswith(b"\x89PNG"), f"what was saved is no picture: {saved[:64]}")


def fetched(tab, path):
    return tab.page.evaluate(f"async (path) => await (await {API}.fetchApi(path)).json()", path)


def another_tenants_page(stage):
    """A second tenant, in a browser context of its own: while the first one's job runs and after it, neither job nor history nor file is there, in the panels or by a guessed address."""
    one, two = page_of(stage, "one"), page_of(stage, "two")
    before = len(two.heard())
    actions.draw(one, stage.watched.workflow)
    actions.vary(one, "SaveImage", "filename_prefix", "hidden")
    actions.vary(one, *stage.watched.varied)

    def during():
        queue = fetched(two, "/queue")
        expect(queue == {"queue_running": [], "queue_pending": []}, f"the other tenant's queue: {queue}")
        stage.shot(two, "1-while-the-first-runs")

    source = actions.run_and_watch(one, stage.watched, during)["source"]
    foreign = list(fetched(one, "/history"))
    expect(foreign and "hidden" in source, f"the first tenant has {foreign} and {source}")
    # The fence: what its socket heard until its own run ended is all that it will hear of the other's.
    own = stage.house.run("two", QUICK)
    eventually("the other tenant's page hears its own run", lambda: any("status" in frame for frame in two.heard()[before:]))
    leaked = [frame for frame in two.heard()[before:] if frame == "binary" or any(prompt in frame for prompt in foreign)]
    expect(not leaked, f"the other tenant's socket heard {leaked}")
    path = source[source.index("/api/view") :]
    guesses = [path, path.replace("type=output", "type=temp"), "/api/view?filename=orange.png&type=input", *(f"/api/history/{prompt}" for prompt in foreign)]
    fetches = "async (paths) => Promise.all(paths.map(async (path) => { const answer = await fetch(path); return [path, answer.status, (await answer.text()).slice(0, 200)]; }))"
    opened = [answer for answer in two.page.evaluate(fetches, guesses) if answer[1] == 200 and answer[2] != "{}"]
    expect(not opened, f"opened by guessing: {opened}")
    by_image = "(path) => new Promise((resolve) => { const image = new Image(); image.onload = image.onerror = () => resolve(image.naturalWidth); image.src = path; })"
    expect((one.page.evaluate(by_image, path), two.page.evaluate(by_image, path)) == (256, 0), f"`<img src={path}>` opens for the wrong one")
    expect(list(fetched(two, "/history")) == [own], f"the other tenant's history: {list(fetched(two, '/history'))}, its own run is {own}")
    for name, panel in (("assets", ASSETS), ("queue", QUEUE)):
        with actions.opened(two, panel):
            shown = actions.shown_in(two, panel)
            stage.shot(two, f"2-{name}")
        expect(len(shown) == 1 and "page_" in shown[0], f"the other tenant's panel of {name} shows {shown}")


def a_refused_workflow(stage):
    """The page marks the node at fault, and no other."""
    tab = page_of(stage, "one")
    actions.draw(tab, QUICK)
    expect(actions.marked(tab) == [], "a node was marked before")
    actions.vary(tab, "EmptyImage", "width", 5000)
    tab.press(actions.RUN)
    eventually("the refused node is marked", lambda: actions.marked(tab) == ["EmptyImage"])
    stage.shot(tab, "1-marked")


def packs_of_the_owner(stage):
    """Each made-up pack's script was loaded, asks its route, and hears its event, which names no prompt."""
    tab = page_of(stage, "one")
    tab.page.evaluate(
        f"async (names) => {{ for (const name of names) await {API}.fetchApi(`/${{name}}/hello`, "
        "{ method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ from: name }) }); }",
        PACKS,
    )
    heard = "(names) => names.every((name) => window.packs?.[name]?.hello?.hello === name && window.packs[name].events.some((event) => event.from === name))"
    tab.page.wait_for_function(heard, arg=PACKS)


def a_logout(stage):
    """In another tab: the page's socket hears nothing from then on, and a cut connection leads to one new socket and not to a loop."""
    tab = page_of(stage, "one")
    other = tab.page.context.new_page()
    other.goto(stage.house.url + "/gate/logout")
    other.click("button")
    other.wait_for_url(stage.house.url + "/gate/login")
    expect(other.inner_text("h1") == "Log in", other.content())
    other.close()
    # What came before the logout is heard by now.
    tab.page.wait_for_timeout(500)
    heard = len(tab.heard())
    # The same owner's next run, by a program: the page must hear nothing of it.
    stage.house.run("one", QUICK | {"1": QUICK["1"] | {"inputs": QUICK["1"]["inputs"] | {"color": 7}}})
    # As when the network is cut for a moment: the page opens its socket anew 300 ms later.
    tab.page.evaluate(f"() => {API}.socket.close()")
    eventually("its new socket is open", lambda: tab.page.evaluate(f"() => window.opened >= 2 && {API}.socket.readyState === 1"))
    tab.page.wait_for_timeout(LOOP_WATCH_MS)
    opened, state = tab.page.evaluate(f"() => [window.opened, {API}.socket.readyState]")
    expect(opened == 2, f"{opened} sockets were opened, two are wanted: its first, and one after the cut")
    expect(state == 1, f"the page's socket is in state {state}, not open")
    expect(tab.heard()[heard:] == [], f"after the logout the page heard {tab.heard()[heard:]}")
    status = tab.page.evaluate("async () => (await fetch('/api/queue')).status")
    expect(status == 401, f"a fetch after the logout: {status}")


STRANGERS = [a_run_by_its_button, an_upload_by_its_widget, a_download, another_tenants_page, a_refused_workflow, a_logout]
OWNER = [packs_of_the_owner, a_logout]
