#!/usr/bin/env bash
# The identity provider that the test asks, in the version named here, with npm.
# install.sh DIRECTORY: installs what is missing there, fails with the reason if it can't. install.sh --there DIRECTORY: only looks.
set -euo pipefail

packages=(oidc-provider@9.13.3)
# What is in DIRECTORY, in the words of this file.
wanted="${packages[*]}"
only_look=false
if [ "${1:-}" = --there ]; then
    only_look=true
    shift
fi
directory=$1

is_there() { [ "$(cat "$directory/versions" 2>/dev/null)" = "$wanted" ] && command -v node >/dev/null; }

if is_there; then exit 0; fi
if "$only_look"; then exit 1; fi
for tool in node npm; do
    command -v "$tool" >/dev/null || { echo "The test of logins at an identity provider needs $tool (node 20 or later): install it, then run make oidc again." >&2; exit 1; }
done
mkdir -p "$directory"
rm -rf "$directory/npm" "$directory/versions"
echo "Fetching ${packages[*]} with npm"
mkdir "$directory/npm"
echo '{"private": true, "type": "module"}' >"$directory/npm/package.json"
# Scripts of packages are not run: none of these needs one.
(cd "$directory/npm" && npm install --silent --no-audit --no-fund --no-update-notifier --ignore-scripts --save-exact "${packages[@]}")
echo "$wanted" >"$directory/versions"
