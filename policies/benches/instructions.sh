#!/usr/bin/env bash
# Counts the instructions of one whole inspection, and of `serde_json` reading the same bytes into a tree, for each case of `cases/mod.rs`, and the peak of memory beside them.
# Prints a table in Markdown. Needs valgrind. An argument selects the cases whose names contain it.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
# With symbols: callgrind finds the functions by name.
CARGO_PROFILE_BENCH_STRIP=none CARGO_PROFILE_BENCH_DEBUG=line-tables-only \
    cargo bench -q -p comfygate-policy --bench instructions --no-run --message-format=json >"$out/build.json"
binary=$(grep -o '"executable":"[^"]*instructions-[^"]*"' "$out/build.json" | head -n 1 | cut -d '"' -f 4)
dumps=()
for counted in instructions::counted_engine instructions::counted_serde; do dumps+=(--dump-before="$counted" --dump-after="$counted"); done
valgrind -q --tool=callgrind --callgrind-out-file="$out/counts" "${dumps[@]}" "$binary" "$@" >"$out/cases.tsv" 2>"$out/errors" || { cat "$out/errors" >&2; exit 1; }
# What a dump holds is told by what set it off: the end of a counted function.
find "$out" -name 'counts.*' | sort -V | xargs awk '/^desc: Trigger: --dump-after/ { wanted = 1 } /^desc: Trigger: --dump-before/ { wanted = 0 } /^totals:/ && wanted { print $2 }' |
    paste - - >"$out/totals.tsv"
echo '| case | bytes | instructions | per byte | of serde_json | ratio | peak memory | × bytes | of serde_json |'
echo '|---|--:|--:|--:|--:|--:|--:|--:|--:|'
paste "$out/cases.tsv" "$out/totals.tsv" | awk -F '\t' '{
    printf "| %s | %.0f | %.0f | %.1f | %.0f | %.2f | %.0f | %.1f | %.1f |\n", $1, $2, $5, $5 / $2, $6, $5 / $6, $3, $3 / $2, $4 / $2
}'
