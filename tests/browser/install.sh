#!/usr/bin/env bash
# What the page's test needs: Chromium and Firefox (apt, unless they are there), Playwright in a virtual environment, axe, and the page itself in the versions that are named (pip).
# install.sh DIRECTORY VERSION…: installs what is missing there, fails with the reason if it can't. install.sh --there DIRECTORY VERSION…: only looks.
set -euo pipefail

# 1.65 asks Firefox for a command of WebDriver BiDi that Debian's (153) does not know yet.
playwright=1.64.1
# The checks of accessibility: axe-core 4.12.1 as one file.
axe=0.1.8
only_look=false
if [ "${1:-}" = --there ]; then
    only_look=true
    shift
fi
directory=$1
shift

chromium_is_there() { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null
firefox_is_there() { command -v firefox-esr || command -v firefox; } >/dev/null
page_is_there() { [ -f "$directory/page-$1/comfyui_frontend_package/static/index.html" ]; }
playwright_is_there() { [ "$(cat "$directory/venv/playwright-version" 2>/dev/null)" = "$playwright" ]; }
axe_is_there() { [ "$(cat "$directory/axe/version" 2>/dev/null)" = "$axe" ]; }

if "$only_look"; then
    chromium_is_there && firefox_is_there && playwright_is_there && axe_is_there || exit 1
    for version in "$@"; do page_is_there "$version" || exit 1; done
    exit 0
fi

apt_install() {
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi
    if ! command -v apt-get >/dev/null || { [ "$(id -u)" -ne 0 ] && ! sudo -n true 2>/dev/null; }; then
        echo "The page's test needs: $*. Install that with your package manager, then run make browser again." >&2
        exit 1
    fi
    echo "Installing $* with apt"
    local install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@")
    "${install[@]}" >/dev/null || { "${as_root[@]}" apt-get update -qq && "${install[@]}" >/dev/null; }
}

chromium_is_there || apt_install chromium
firefox_is_there || apt_install firefox-esr
mkdir -p "$directory"
if ! playwright_is_there; then
    command -v python3 >/dev/null || apt_install python3 python3-venv
    rm -rf "$directory/venv"
    # Debian keeps `venv` in a package of its own.
    python3 -m venv "$directory/venv" 2>/dev/null || { apt_install python3-venv && python3 -m venv "$directory/venv"; }
    echo "Installing playwright $playwright with pip"
    "$directory/venv/bin/pip" install -q --disable-pip-version-check "playwright==$playwright"
    echo "$playwright" >"$directory/venv/playwright-version"
fi
if ! axe_is_there; then
    echo "Fetching axe-playwright-python $axe with pip"
    rm -rf "$directory/axe"
    "$directory/venv/bin/pip" install -q --disable-pip-version-check --no-deps --no-compile --target "$directory/axe" "axe-playwright-python==$axe"
    echo "$axe" >"$directory/axe/version"
fi
for version in "$@"; do
    if page_is_there "$version"; then continue; fi
    echo "Fetching comfyui-frontend-package $version with pip"
    rm -rf "$directory/page-$version.part" "$directory/page-$version"
    "$directory/venv/bin/pip" install -q --disable-pip-version-check --no-deps --no-compile --target "$directory/page-$version.part" "comfyui-frontend-package==$version"
    mv "$directory/page-$version.part" "$directory/page-$version"
done
