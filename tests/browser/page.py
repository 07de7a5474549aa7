"""The stock ComfyUI page through the gateway in real browsers, and the gateway's own pages.

Usage: page.py --binaries target/debug --pages target/browser [--only SCENARIO…] [--browsers chromium,firefox,phone] [--backend URL] VERSION…
Chromium tries every version that is named, Firefox and the phone the last one.
"""

import argparse
import contextlib
import os
import pathlib
import sys
import time

from playwright.sync_api import sync_playwright

import accounts
import actions
import browsers
import gate
import scenarios
from house import expect, open_house


AXE = "axe/axe_playwright_python/axe.min.js"


def stages(given):
    """What is tried: browser, version of the page, policy of the tenants, and the scenarios there."""
    last = given.versions[-1]
    for name in given.browsers:
        for version in given.versions if name == "chromium" else [last]:
            own = gate.EVERYWHERE + accounts.EVERYWHERE if version == last else []
            yield name, version, "default", own + scenarios.STRANGERS
            if name == "chromium" and not given.backend:
                yield name, version, "owner", scenarios.OWNER


def page_files(pages, version):
    root = pages / f"page-{version}" / "comfyui_frontend_package" / "static"
    expect((root / "index.html").is_file(), f"`{root}` has no page: run `make browser`")
    return root


def try_stage(playwright, browser, given, name, version, policy, wanted):
    """Runs the scenarios in one house, in their order; the first that fails ends it. How many failed: 0 or 1."""
    title = f"{name}, page {version}, policy {policy}"
    with contextlib.ExitStack() as stack:
        root = None if given.backend else page_files(given.pages, version)

        def open_another(**options):
            return stack.enter_context(open_house(given.binaries, root, policy, given.backend, **options))

        watched = actions.PROBED if given.backend else actions.SAMPLED
        stage = browsers.Stage(playwright, browser, name, open_another(), watched, given.shots / f"{name}-{version}", stack)
        stage.open_another, stage.axe, stage.provider = open_another, given.pages / AXE, given.provider
        for scenario in wanted:
            stage.scenario = scenario.__name__
            began = time.monotonic()
            try:
                scenario(stage)
            except Exception as error:
                stage.shoot_all()
                sys.stderr.write(stage.house.log()[-4000:])
                print(f"FAILED: {title}: {stage.scenario}: {error}", file=sys.stderr, flush=True)
                return 1
            print(f"ok: {title}: {stage.scenario} in {time.monotonic() - began:.0f} s", flush=True)
    return 0


def arguments():
    known = {scenario.__name__ for scenario in (*gate.EVERYWHERE, *accounts.EVERYWHERE, *scenarios.STRANGERS, *scenarios.OWNER)}
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binaries", type=pathlib.Path, required=True, help="folder of comfygate and comfygate-stand-in")
    parser.add_argument("--pages", type=pathlib.Path, required=True, help="folder that `make browser` has filled")
    parser.add_argument("--shots", type=pathlib.Path, help="folder of the screenshots (default: `screenshots` in that of the pages)")
    parser.add_argument("--browsers", type=lambda text: text.split(","), default=list(browsers.NAMES), help=f"of {','.join(browsers.NAMES)}")
    parser.add_argument("--only", action="append", choices=sorted(known), help="a scenario; may be repeated (default: all)")
    parser.add_argument("--provider", type=pathlib.Path, help="folder that `make oidc` has filled; without it no login at an identity provider is tried")
    parser.add_argument("--backend", help="a ComfyUI that runs, which serves its own page, in place of the stand-in")
    parser.add_argument("versions", nargs="+", help="of comfyui-frontend-package")
    given = parser.parse_args()
    if unknown := set(given.browsers) - set(browsers.NAMES):
        parser.error(f"no such browser: {', '.join(unknown)}; there are {', '.join(browsers.NAMES)}")
    given.binaries, given.pages = given.binaries.resolve(), given.pages.resolve()
    given.provider = given.provider and given.provider.resolve()
    given.shots = (given.shots or given.pages / "screenshots").resolve()
    return given


def main():
    given = arguments()
    if not given.provider or not (given.provider / "versions").is_file():
        print("skipped: a login at an identity provider in a browser: oidc-provider is not installed (make oidc)", flush=True)
        accounts.EVERYWHERE.remove(accounts.at_an_identity_provider)
    began, failed, done = time.monotonic(), 0, 0
    with sync_playwright() as playwright:
        for name, version, policy, wanted in stages(given):
            wanted = [scenario for scenario in wanted if not given.only or scenario.__name__ in given.only]
            if not wanted:
                continue
            browser = browsers.launch(playwright, name)
            try:
                failed += try_stage(playwright, browser, given, name, version, policy, wanted)
                done += 1
            finally:
                browser.close()
    print(f"browsers: {done - failed} passed, {failed} failed, in {time.monotonic() - began:.0f} s; screenshots in {os.path.relpath(given.shots)}", flush=True)
    expect(done, "no scenario was chosen")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
