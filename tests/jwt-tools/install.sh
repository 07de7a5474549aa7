#!/usr/bin/env bash
# Tools that forge tokens, in the versions named here: myjwt in a virtual environment (pip, seconds), jwt-hack by cargo (several minutes on two cores; only where WITH names it).
# install.sh DIRECTORY: installs what is missing there, fails with the reason if it can't. install.sh --there DIRECTORY: only looks whether myjwt is.
set -euo pipefail

# myjwt declares no dependencies; those after it are what it imports.
python_packages=(myjwt==2.1.0 click==8.5.1 colorama==0.4.6 cryptography==50.0.2 exrex==0.12.0 pyOpenSSL==26.4.0 pyperclip==1.11.0 questionary==2.1.1 requests==2.34.2)
jwt_hack=2.6.0
only_look=false
if [ "${1:-}" = --there ]; then
    only_look=true
    shift
fi
directory=$1

if [ "$(cat "$directory/versions" 2>/dev/null)" != "${python_packages[*]}" ]; then
    if "$only_look"; then exit 1; fi
    command -v python3 >/dev/null || { echo 'The test with tools that forge tokens needs python3: install it, then run make jwt-attacks again.' >&2; exit 1; }
    mkdir -p "$directory"
    rm -rf "$directory/venv" "$directory/versions"
    echo "Fetching ${python_packages[*]} with pip"
    python3 -m venv "$directory/venv"
    "$directory/venv/bin/pip" install -q --disable-pip-version-check "${python_packages[@]}"
    echo "${python_packages[*]}" >"$directory/versions"
fi
if [[ " ${WITH:-} " == *" jwt-hack "* ]] && [ "$(cat "$directory/jwt-hack-version" 2>/dev/null)" != "$jwt_hack" ] && ! "$only_look"; then
    echo "Building jwt-hack $jwt_hack with cargo"
    # Not optimised: it forges some hundred tokens. OpenSSL comes from the system where it is there, which saves a minute.
    if pkg-config --exists openssl 2>/dev/null; then export OPENSSL_NO_VENDOR=1; fi
    CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --version "$jwt_hack" --root "$directory" --target-dir "$directory/build" jwt-hack
    rm -rf "$directory/build"
    echo "$jwt_hack" >"$directory/jwt-hack-version"
fi
