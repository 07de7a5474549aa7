# The commands of this repository. `make` alone lists them. Each says what it left out, in a line that begins with `skipped:`.
# Only apt (for cmake), cargo and, for the page in a browser and for client libraries, pip, npm and apt are ever asked for anything.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help needs browser browser-tools clients clients-tools oidc oidc-tools jwt-attacks jwt-tools run test check lint doc deny bench simulate fuzz release static real differential chaos

# Every command below selects the same packages and features: cargo then builds each dependency once a profile.
EVERYTHING := --workspace --all-features --locked
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
# Where the tests' `skipped: why` lines are gathered from.
TEST_LOG := $(TARGET_DIR)/test-output.log

# The web page that ComfyUI 0.8.0 asks for, and the newest of November 2026.
PAGES := 1.35.9 1.58.1
BROWSER := $(TARGET_DIR)/browser
TRY_PAGES := '$(BROWSER)/venv/bin/python' tests/browser/page.py --binaries '$(TARGET_DIR)/debug' --pages '$(BROWSER)' --provider '$(TARGET_DIR)/oidc' $(PAGES)

# Client libraries of ComfyUI, as their registries have them.
CLIENTS := $(TARGET_DIR)/clients
TRY_CLIENTS := '$(CLIENTS)/venv/bin/python' tests/clients/clients.py --binaries '$(TARGET_DIR)/debug' --libraries '$(CLIENTS)'

# An identity provider of npm, where the test of logins at it looks for it.
OIDC := $(TARGET_DIR)/oidc
# Tools that forge tokens; WITH=jwt-hack for the one that takes minutes to build.
JWT_TOOLS := $(TARGET_DIR)/jwt-tools
TRY_JWT_TOOLS := '$(JWT_TOOLS)/venv/bin/python' tests/jwt-tools/attacks.py --binaries '$(TARGET_DIR)/debug' --tools '$(JWT_TOOLS)'

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

needs:
	@command -v cargo >/dev/null || { echo 'cargo is missing: install Rust 1.90 or later from https://rustup.rs' >&2; exit 1; }
	packages=()
	# Pingora compresses through zlib-ng, whose build script calls cmake; ring and others compile C.
	command -v cmake >/dev/null || packages+=(cmake)
	command -v cc >/dev/null || packages+=(gcc libc6-dev)
	for tool in $(TOOLS); do command -v "$$tool" >/dev/null || packages+=("$$tool"); done
	if [ "$${#packages[@]}" -eq 0 ]; then exit 0; fi
	as_root=()
	if [ "$$(id -u)" -ne 0 ]; then as_root=(sudo -n); fi
	if ! command -v apt-get >/dev/null || { [ "$$(id -u)" -ne 0 ] && ! sudo -n true 2>/dev/null; }; then
		echo "The build needs: $${packages[*]}. Install that with your package manager (Debian, Ubuntu: sudo apt-get install $${packages[*]}), then run make again." >&2
		exit 1
	fi
	echo "Installing $${packages[*]} with apt"
	install=("$${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$${packages[@]}")
	"$${install[@]}" || { "$${as_root[@]}" apt-get update -qq && "$${install[@]}"; }

# The tests make RSA keys with it (ring makes none); Debian's package has the tool's name.
test real: TOOLS := openssl

run: needs ## build, then start the demo: gateway, two simulated backends, two tenants
	@echo 'Building comfygate. The first build takes about 3 minutes on 2 cores, a later one seconds.'
	# Unoptimised, as the tests want it: `make test` goes on from here. An optimised build takes 1.7 times as long and helps nobody to try it out.
	cargo build $(EVERYTHING) --bins
	exec $(TARGET_DIR)/debug/comfygate demo $(ARGS)

test: needs ## every test that needs no ComfyUI and no GPU
	@echo 'Building and testing. On 2 cores the first time takes about 20 minutes, a later one about 14.'
	rm -f $(TEST_LOG) $(TARGET_DIR)/nextest/default/junit.xml
	# The tests from outside start the real binary; cargo builds it for no test of another crate by itself.
	cargo build $(EVERYTHING) --bins
	if cargo nextest --version >/dev/null 2>&1; then
		cargo nextest run $(EVERYTHING) --tests --cargo-quiet
		cp $(TARGET_DIR)/nextest/default/junit.xml $(TEST_LOG)
	else
		cargo test $(EVERYTHING) --tests --no-fail-fast -- --show-output | tee $(TEST_LOG)
	fi
	cargo test $(EVERYTHING) --doc
	if tests/browser/install.sh --there '$(BROWSER)' $(PAGES); then
		$(TRY_PAGES) | tee -a $(TEST_LOG)
	else
		echo 'skipped: the stock page in browsers: Chromium, Firefox, Playwright or the page is not installed (make browser)' >> $(TEST_LOG)
	fi
	if tests/clients/install.sh --there '$(CLIENTS)'; then
		$(TRY_CLIENTS)
	else
		echo 'skipped: client libraries: those of PyPI and npm are not installed (make clients)' >> $(TEST_LOG)
	fi
	if tests/jwt-tools/install.sh --there '$(JWT_TOOLS)'; then
		$(TRY_JWT_TOOLS) | tee -a $(TEST_LOG)
	else
		echo 'skipped: tools that forge tokens: myjwt is not installed (make jwt-attacks)' >> $(TEST_LOG)
	fi
	echo
	echo 'All tests passed. Not part of it:'
	grep -ho 'skipped: .*' $(TEST_LOG) | sed 's/&apos;/'"'"'/g; s/&quot;/"/g; s/&lt;/</g; s/&gt;/>/g; s/&amp;/\&/g' | sort -u || true
	if ! cargo +nightly --version >/dev/null 2>&1; then echo 'skipped: fuzzing: no nightly toolchain (make fuzz; the corpora were replayed above)'; fi
	if ! command -v nvidia-smi >/dev/null; then echo 'skipped: GPU: no NVIDIA driver here; what the driver tells is tested with a recorded reading'; fi
	if [ -z "$${COMFYUI_URL:-}$${COMFYUI_URLS:-}" ]; then echo 'skipped: a real ComfyUI: neither COMFYUI_URL nor COMFYUI_URLS is set (make real)'; fi

browser: needs browser-tools ## the stock page and the gateway's own in Chromium, Firefox and on a phone (the first time apt and pip fetch about 300 MB); TRY='--browsers firefox --only a_logout' for some of it
	cargo build $(EVERYTHING) --bins
	$(TRY_PAGES) $(TRY)

browser-tools:
	@tests/browser/install.sh '$(BROWSER)' $(PAGES)

clients: needs clients-tools ## five client libraries of ComfyUI through the gateway (the first time pip and npm fetch about 500 MB); NAMES='sdk cli' for some of them
	cargo build $(EVERYTHING) --bins
	$(TRY_CLIENTS) $(NAMES)

clients-tools:
	@tests/clients/install.sh '$(CLIENTS)'

oidc: needs oidc-tools ## logins at a real identity provider, oidc-provider of npm (the first time npm fetches about 4 MB); `make test` has it once it is there
	cargo build $(EVERYTHING) --bins
	cargo test -p comfygate-tests --all-features --locked --test e2e oidc_real -- --show-output

oidc-tools:
	@tests/oidc/install.sh '$(OIDC)'

jwt-attacks: needs jwt-tools ## tokens that public tools forge, at a gateway with three issuers; WITH=jwt-hack for a second tool, which cargo builds first
	cargo build $(EVERYTHING) --bins
	$(TRY_JWT_TOOLS)

jwt-tools:
	@WITH='$(WITH)' tests/jwt-tools/install.sh '$(JWT_TOOLS)'

check: needs ## everything before a change is handed over: format, lints, tests, documentation, dependencies
	@cargo fmt --all --check
	$(MAKE) --no-print-directory test
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory doc
	$(MAKE) --no-print-directory deny

lint: needs ## clippy, warnings are errors
	cargo clippy $(EVERYTHING) --all-targets -- -D warnings

doc: needs ## the API documentation, warnings are errors
	RUSTDOCFLAGS='-D warnings' cargo doc $(EVERYTHING) --no-deps

deny: ## licences, banned crates and sources of the dependencies
	@if cargo deny --version >/dev/null 2>&1; then
		cargo deny --offline --log-level error check bans licenses sources
	else
		echo 'skipped: cargo deny: not installed (cargo install cargo-deny --locked, about 4 minutes)'
	fi

bench: needs ## latency added by the gateway, and its idle memory (release profile)
	@echo 'Building the release binary and the benchmark: about 8 minutes on 2 cores the first time.'
	cargo build --workspace --locked --release --bin comfygate
	COMFYGATE_BIN='$(abspath $(TARGET_DIR))/release/comfygate' cargo bench --workspace --locked --bench gateway

simulate: needs ## the scheduler beside FIFO, round robin and least connections, in virtual time: tables and plots of docs/scheduling.md (release profile)
	@echo 'Building the simulation: about 8 minutes on 2 cores the first time; it runs for half a minute.'
	cargo bench -p comfygate-tests --all-features --locked --bench simulation -- '$(abspath docs)'

fuzz: ## fuzz one target for SECONDS_MAX=60 seconds: make fuzz TARGET=parse
	@if ! cargo +nightly --version >/dev/null 2>&1; then
		echo 'skipped: fuzzing: no nightly toolchain (rustup toolchain install nightly)'
	elif ! cargo fuzz --version >/dev/null 2>&1; then
		echo 'skipped: fuzzing: cargo-fuzz is not installed (cargo install cargo-fuzz --locked, about 1 minute)'
	elif [ -z '$(TARGET)' ]; then
		echo 'Which target? make fuzz TARGET=…, one of:' >&2
		cargo +nightly fuzz list >&2
		exit 2
	else
		# New inputs go into the first folder: the corpus that is kept stays small and chosen by hand.
		found='$(TARGET_DIR)/fuzz-corpus/$(TARGET)'
		mkdir -p "$$found"
		# The crates forbid unsafe code: without the address sanitizer a second makes several times as many inputs.
		cargo +nightly fuzz run --sanitizer none '$(TARGET)' "$$found" 'fuzz/corpus/$(TARGET)' -- -max_total_time=$(or $(SECONDS_MAX),60)
	fi

release: needs ## the binary to install: fat LTO, one codegen unit (needs about 3 GB of memory)
	@echo 'Building the release binary: about 6 minutes on 2 cores the first time.'
	cargo build --workspace --locked --release --bin comfygate
	ls -l $(TARGET_DIR)/release/comfygate

static: needs ## the same as one static binary (musl), for any Linux of this processor: packaging/README.md
	@target=$$(uname -m)-unknown-linux-musl
	if ! command -v musl-gcc >/dev/null; then
		echo 'musl-gcc is missing: sudo apt-get install musl-tools' >&2
		exit 1
	fi
	if ! [ -d "$$(rustc --print target-libdir --target "$$target")" ]; then
		echo "Rust's target $$target is missing: rustup target add $$target" >&2
		exit 1
	fi
	echo 'Building the static binary: about 8 minutes on 2 cores the first time.'
	cargo build --workspace --locked --release --bin comfygate --target "$$target"
	ls -l "$(TARGET_DIR)/$$target/release/comfygate"
	# "statically linked", or the libraries that are left.
	ldd "$(TARGET_DIR)/$$target/release/comfygate" || true

chaos: needs ## 500 jobs of 20 tenants while backends and gateway are killed, hung, wiped and broken for two minutes: CHAOS_SEED=7 for a certain run
	@cargo build $(EVERYTHING) --bins
	export CHAOS_SEED="$${CHAOS_SEED:-$$RANDOM}" CHAOS_JOBS="$${CHAOS_JOBS:-500}" CHAOS_SECONDS="$${CHAOS_SECONDS:-120}"
	echo "CHAOS_SEED=$$CHAOS_SEED"
	cargo test -p comfygate-tests --all-features --locked --test chaos -- --nocapture

differential: needs ## the policy engine against a real ComfyUI on generated graphs: COMFYUI_URLS=http://… DIFFERENTIAL_GRAPHS=2000
	@if [ -z "$${COMFYUI_URLS:-}" ]; then
		echo 'skipped: the engine against a real ComfyUI on generated graphs: set COMFYUI_URLS to one of release 0.8.0 that is started with --extra-model-paths-config FILE,'
		echo "         where FILE says: differential: {custom_nodes: '$(abspath tests/differential)'}"
		exit 0
	fi
	cargo test -p comfygate-tests --locked --test differential -- --nocapture --test-threads 1

real: needs ## conformance and end-to-end tests on a real ComfyUI: COMFYUI_URL=http://… COMFYUI_URLS=http://…,http://…
	@if [ -z "$${COMFYUI_URL:-}$${COMFYUI_URLS:-}" ]; then
		echo 'skipped: real ComfyUI: set COMFYUI_URL (conformance) or COMFYUI_URLS, two of them with the probe nodes (end to end)'
		exit 0
	fi
	cargo build $(EVERYTHING) --bins
	cargo test $(EVERYTHING) --test conformance --test real -- --show-output --test-threads 1
	if [ -n "$${COMFYUI_URLS:-}" ]; then
		cargo test $(EVERYTHING) --test isolation -- --show-output --test-threads 1 matrix leaks fatal caches
	fi
