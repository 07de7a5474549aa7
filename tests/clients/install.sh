#!/usr/bin/env bash
# The client libraries that the test runs, in the versions named here: in a virtual environment (pip) and a folder of packages (npm).
# install.sh DIRECTORY: installs what is missing there, fails with the reason if it can't. install.sh --there DIRECTORY: only looks.
set -euo pipefail

python_packages=(comfy-api-simplified==1.6.0 'comfy-script[client,runtime]==0.6.1' comfy-cli==1.23.0)
node_packages=(@saintno/comfyui-sdk@0.3.1 @stable-canvas/comfyui-client@1.5.9 ws@8.23.0)
# What is in DIRECTORY, in the words of this file.
wanted="${python_packages[*]} ${node_packages[*]}"
only_look=false
if [ "${1:-}" = --there ]; then
    only_look=true
    shift
fi
directory=$1

is_there() { [ "$(cat "$directory/versions" 2>/dev/null)" = "$wanted" ] && command -v node >/dev/null; }

if is_there; then exit 0; fi
if "$only_look"; then exit 1; fi
for tool in python3 node npm; do
    command -v "$tool" >/dev/null || { echo "The test of client libraries needs $tool (node 20 or later): install it, then run make clients again." >&2; exit 1; }
done
mkdir -p "$directory"
rm -rf "$directory/venv" "$directory/npm" "$directory/versions"
echo "Fetching ${python_packages[*]} with pip"
python3 -m venv "$directory/venv"
"$directory/venv/bin/pip" install -q --disable-pip-version-check "${python_packages[@]}"
echo "Fetching ${node_packages[*]} with npm"
mkdir "$directory/npm"
echo '{"private": true}' >"$directory/npm/package.json"
# Scripts of packages are not run: none of these needs one.
(cd "$directory/npm" && npm install --silent --no-audit --no-fund --no-update-notifier --ignore-scripts --save-exact "${node_packages[@]}")
echo "$wanted" >"$directory/versions"
