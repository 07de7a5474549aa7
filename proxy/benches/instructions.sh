#!/usr/bin/env bash
# Counts the instructions of a decision of the scheduler with 10,000 held jobs, and the bytes that a held job takes there, for each mix of `cases/mod.rs`. Prints a table in Markdown. Needs valgrind.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
# With symbols: callgrind finds the function by name.
CARGO_PROFILE_BENCH_STRIP=none CARGO_PROFILE_BENCH_DEBUG=line-tables-only \
    cargo bench -q -p comfygate --bench instructions --no-run --message-format=json >"$out/build.json"
binary=$(grep -o '"executable":"[^"]*instructions-[^"]*"' "$out/build.json" | head -n 1 | cut -d '"' -f 4)
echo '| held jobs | instructions a decision | bytes a held job |'
echo '|---|--:|--:|'
"$binary" names | while read -r mix; do
    valgrind -q --tool=callgrind --callgrind-out-file="$out/counts" --toggle-collect='instructions::counted_decision*' "$binary" "$mix" >"$out/case.tsv" 2>"$out/errors" ||
        { cat "$out/errors" >&2; exit 1; }
    total=$(awk '/^(totals|summary):/ { print $2; exit }' "$out/counts")
    awk -F '\t' -v total="$total" '{ printf "| %s | %.0f | %d |\n", $1, total / $3, $2 }' "$out/case.tsv"
done
