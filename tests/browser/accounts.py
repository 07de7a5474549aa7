"""People with an account: the first link, passwords, the list of sessions, an identity provider. Each scenario is a function by its name."""

import re

from browsers import Tab
from gate import AT_ONCE, at_login, check, forget_alert, with_key
from house import PASSWORD, QUICK, eventually, expect

PASSWORD_FORM = "form:has(#password)"
LINK = re.compile(r"https://\S+/gate/first\?token=\S+")


def with_password(tab, name, password):
    tab.page.locator("#user").fill(name)
    tab.page.locator("#password").fill(password)
    tab.press(f"{PASSWORD_FORM} button")


def choose_password(tab, password, again=None):
    tab.page.locator("#password").fill(password)
    tab.page.locator("#again").fill(password if again is None else again)
    tab.press(f"{PASSWORD_FORM} button")


def logged_in(stage, name, password, path="/queue") -> Tab:
    """A browser context of its own, logged in by password, at an address of ours that is light."""
    tab = at_login(stage, f"?next={path}")
    with_password(tab, name, password)
    tab.page.wait_for_url(stage.house.url + path)
    return tab


def answer_to(tab, path="/queue"):
    return tab.page.evaluate("async (path) => (await fetch(path)).status", path)


def the_first_link(stage):
    """A gateway that nobody can log in to has a link in a file, where its standard error is no terminal. Looking at it uses nothing up; its form makes the first user, who is logged in then; it is good once, and there is no second."""
    house = stage.open_another(nobody=True)
    link = eventually("the gateway makes a link", house.first_link)
    expect(LINK.fullmatch(link) and not LINK.search(house.log()), f"the link: {link}")
    tab = stage.tab(stage.context(house.url), house.url)
    for _ in range(2):
        tab.page.goto(link)
    check(stage, tab, "first")
    tab.page.locator("#user").fill("ada")
    choose_password(tab, PASSWORD, PASSWORD + "?")
    tab.page.wait_for_selector("[role=alert]")
    check(stage, tab, "first-differs")
    expect(tab.page.input_value("#user") == "ada" and tab.page.input_value("#password") == "", "the name is kept and the password is not")
    choose_password(tab, PASSWORD)
    tab.page.wait_for_url(house.url + "/", wait_until=AT_ONCE)
    tab.page.goto(house.url + "/queue")
    expect(answer_to(tab) == 200, "the first user is not logged in")
    other = stage.tab(stage.context(house.url), house.url)
    refused = other.page.goto(link)
    expect(refused.status == 403 and "not good any more" in other.page.inner_text("[role=alert]"), f"the link a second time: {refused.status}")
    check(stage, other, "first-over")
    other.page.goto(house.url + "/gate/login?next=/queue")
    with_password(other, "ADA", PASSWORD)
    other.page.wait_for_url(house.url + "/queue")


def a_link_for_a_user(stage):
    """By `comfygate user link` a person chooses a password; the name is given."""
    link = LINK.search(stage.house.command("user", "link", "grace", "--tenant", "two")).group()
    tab = stage.tab()
    tab.page.goto(link)
    expect(tab.page.input_value("#user") == "grace" and tab.page.get_attribute("#user", "readonly") is not None, "the link does not give the name")
    check(stage, tab, "link")
    choose_password(tab, PASSWORD)
    tab.page.wait_for_url(stage.house.url + "/", wait_until=AT_ONCE)
    tab.page.goto(stage.house.url + "/gate/sessions")
    expect("grace of two" in tab.page.inner_text("main"), tab.page.inner_text("main"))


def a_password_that_is_wrong(stage):
    """The same text for a wrong password and for a name that nobody has; neither comes back in the form."""
    tab = at_login(stage)
    told = set()
    for name in ("ada", "nobody"):
        forget_alert(tab)
        with_password(tab, name, "wrong " + PASSWORD)
        tab.page.wait_for_selector("[role=alert]")
        told.add(tab.page.inner_text("[role=alert]"))
        expect(tab.page.input_value("#password") == "", "the page gives a refused password back")
    stage.shot(tab, "1-told")
    expect(len(told) == 1 and "not accepted" in next(iter(told)), f"told was {told}")
    with_password(tab, "ada", PASSWORD)
    tab.page.wait_for_url(stage.house.url + "/", wait_until=AT_ONCE)


def run_from(tab, colour):
    """A run by a page of the browser, to its end."""
    script = """async (body) => {
      const headers = { 'Content-Type': 'application/json' };
      const { prompt_id } = await (await fetch('/prompt', { method: 'POST', headers, body: JSON.stringify(body) })).json();
      while (!(await (await fetch(`/history/${prompt_id}`)).json())[prompt_id]) await new Promise((resolve) => setTimeout(resolve, 100));
    }"""
    tab.page.evaluate(script, {"prompt": QUICK | {"1": QUICK["1"] | {"inputs": QUICK["1"]["inputs"] | {"color": colour}}}})


def sessions_in_two_browsers(stage):
    """Each browser sees both sessions; one ends the other, whose open socket hears nothing from then on and whose cookie is good for nothing. Another password ends all sessions by the former."""
    here, there = logged_in(stage, "ada", PASSWORD), logged_in(stage, "ada", PASSWORD)
    # What stands there is an answer of JSON, which opens no socket by itself.
    opened = "(url) => new Promise((resolve, reject) => { const socket = new WebSocket(url); socket.onopen = () => resolve(); socket.onerror = () => reject('refused'); })"
    there.page.evaluate(opened, stage.house.url.replace("https", "wss") + "/ws")
    before = len(there.heard())
    run_from(here, 21)
    eventually("the other browser's socket hears of the run", lambda: len(there.heard()) > before)
    light = here
    here = stage.tab(light.page.context)
    here.page.goto(stage.house.url + "/gate/sessions")
    expect(here.page.locator("tbody tr").count() >= 2, f"the list has {here.page.inner_text('main')}")
    stage.shot(here, "1-both")
    # Their own one says `Log out`; the newest of the others is the last.
    here.page.locator("tbody button", has_text="End").last.click()
    eventually("the session ends", lambda: answer_to(there) == 401)
    before = len(there.heard())
    run_from(light, 22)
    there.page.wait_for_timeout(500)
    expect(there.heard()[before:] == [], f"after its end the session's socket heard {there.heard()[before:]}")
    expect(here.page.url == stage.house.url + "/gate/sessions", f"ending the other's session led to {here.page.url}")
    stage.shot(here, "2-one-is-ended")
    third = logged_in(stage, "ada", PASSWORD)
    here.page.locator("#old").fill("wrong " + PASSWORD)
    choose_password(here, PASSWORD + " 2")
    here.page.wait_for_selector("[role=alert]")
    check(stage, here, "password-refused")
    here.page.locator("#old").fill(PASSWORD)
    choose_password(here, PASSWORD + " 2")
    eventually("the sessions by the former password end", lambda: answer_to(third) == 401)
    here.page.goto(stage.house.url + "/queue")
    expect(answer_to(here) == 200, "whoever changed the password is logged out")
    # As it was, for the scenarios after this one.
    stage.house.command("user", "passwd", "ada", "--password-stdin", given=PASSWORD + "\n")


def at_an_identity_provider(stage):
    """By the provider's own form, and back to the address that was asked for, as the tenant and the user that its claims name; the logout ends the login there too."""
    house = stage.open_another(provider=stage.provider)
    tab = stage.tab(stage.context(house.url, also=(house.provider,)), house.url)
    tab.page.goto(house.url + "/gate/login?next=/queue")
    check(stage, tab, "login-with-all-ways")
    tab.press("a:has-text('Studio')")
    tab.page.wait_for_url(lambda url: url.startswith(house.provider))
    stage.shot(tab, "1-at-the-provider")
    tab.page.locator("[name=login]").fill("grace")
    tab.page.locator("[name=password]").fill("any")
    tab.press("button[type=submit]")
    tab.page.wait_for_url(house.url + "/queue")
    expect(answer_to(tab) == 200, "whoever logged in at the provider is not let in")
    tab.page.goto(house.url + "/gate/sessions")
    stage.shot(tab, "2-sessions")
    expect("grace of two" in tab.page.inner_text("main"), tab.page.inner_text("main"))
    # Somebody who is logged in there is asked nothing.
    tab.page.context.clear_cookies(domain="localhost")
    tab.page.goto(house.url + "/gate/login?next=/queue")
    tab.press("a:has-text('Studio')")
    tab.page.wait_for_url(house.url + "/queue")
    tab.page.goto(house.url + "/gate/logout")
    # Its page leads on by itself: a redirect of the form would be against our own `form-action`.
    tab.press("button")
    tab.page.wait_for_url(lambda url: url.startswith(house.provider))
    stage.shot(tab, "3-logout-at-the-provider")
    tab.press("button[value=yes], button[type=submit]")
    tab.page.wait_for_url(house.url + "/gate/**")
    stage.shot(tab, "4-logged-out")
    tab.page.goto(house.url + "/gate/login?next=/queue")
    tab.press("a:has-text('Studio')")
    tab.page.wait_for_selector("[name=login]")
    tab.page.goto(house.url + "/gate/sessions")
    expect("/gate/login" in tab.page.url, "the session did not end")


EVERYWHERE = [the_first_link, a_link_for_a_user, a_password_that_is_wrong, sessions_in_two_browsers, at_an_identity_provider]
