# People's and CI's way in: `make demo` shows the engine at work, `make test` checks everything.

BIN    := vault-plugin-secrets-datastax-astra
TRIPLE := $(shell rustc -vV | sed -n 's/^host: //p')

# How a release binary is built. What it is optimized for is in Cargo.toml, [profile.release], and .cargo/config.toml has
# what C code is built without; all other settings are here.
#
# A static binary needs nothing of the machine it runs on. It takes a static C library to link one; where there is none
# (or none is possible), the binary is an ordinary one.
ifneq ($(wildcard $(shell $(CC) -print-file-name=libc.a)),)
ifneq ($(findstring linux-gnu,$(TRIPLE)),)
# A static binary relocates itself, which reads 350 KiB of relocations, or 4 KiB where they are packed. glibc 2.36 and later
# can unpack them; with an earlier one the binary would not start.
PACKED := $(shell printf '%s\n' 2.36 "$$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)" | sort -CV && \
	echo -C link-arg=-Wl,-z,pack-relative-relocs)
# In a static binary, the crate getrandom does not detect the system call. Without this setting it needs /dev/urandom.
RANDOM := --cfg getrandom_backend="linux_getrandom"
STATIC := -C target-feature=+crt-static $(PACKED) $(RANDOM)
endif
endif
# Where it is built is left out of it, so that everybody gets the same bytes from one commit and one compiler. C code
# (aws-lc-sys) does so by itself.
CARGO_HOME ?= $(HOME)/.cargo
RUST       := $(shell rustc --print sysroot)/lib/rustlib/src/rust
REMAP      := --remap-path-prefix=$(CURDIR)=/plugin --remap-path-prefix=$(CARGO_HOME)=/cargo --remap-path-prefix=$(RUST)=/rust
# What -version shows. A source archive has no commit.
BUILD_COMMIT ?= $(if $(wildcard .git),$(shell git rev-parse HEAD)$(if $(shell git status --porcelain),-dirty))
# The explicit target keeps the flags away from build scripts and procedural macros.
BUILD := BUILD_COMMIT='$(BUILD_COMMIT)' RUSTFLAGS='$(STATIC) $(REMAP)' \
	cargo build --locked --release --bin $(BIN) --target $(TRIPLE)

# Tools of a release, built once each: $(call tool,name,version). TOOLS can be a folder that several checkouts share.
TOOLS     ?= target/tools
tool       = $(TOOLS)/$(1)/$(2)/bin/$(1)
AUDITABLE := $(call tool,cargo-auditable,0.7.7)
CYCLONEDX := $(call tool,cargo-cyclonedx,0.5.9)
DENY      := $(call tool,cargo-deny,0.20.2)

TARGET    := $(abspath $(or $(CARGO_TARGET_DIR),target))
RELEASE   := $(TARGET)/$(TRIPLE)/release/$(BIN)
SIMULATOR := $(TARGET)/debug/examples/astra-simulator

PROFILED  := $(TARGET)/$(TRIPLE)/profiling/$(BIN)

# The conformance and end-to-end tiers test the release binary. The end-to-end tier runs it on the server HOST_BIN.
UNDER_TEST = HOST_BIN=$$(sh tests/support/host-bin.sh) && export HOST_BIN PLUGIN=$(RELEASE) &&

FUZZ_SECONDS ?= 30

# The load generator of the benchmark.
OHA_VERSION := 1.16.0
OHA         := target/tools/oha-$(OHA_VERSION)/bin/oha

# The program that measures, with the dependencies that the tests have built already.
MEASURE = $(UNDER_TEST) CARGO_PROFILE_DEV_OPT_LEVEL=2 \
	cargo bench --locked --profile dev --bench bench --

.PHONY: help demo dev test test-vault test-roots storm fuzz fmt fmtcheck lint doc docs bin proto release reproducible deny licenses image msrv bench bench-guard profile

help: ## Lists the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

demo: bin $(SIMULATOR) ## Mints, shows, renews and revokes a token on a real server
	@PLUGIN=$(RELEASE) SIMULATOR=$(SIMULATOR) sh docs/demo.sh

.PHONY: recording
recording: bin $(SIMULATOR) ## Records the demo in docs/demo.cast, and draws a moment of it in docs/demo.svg (needs npx)
	@at=$$(PLUGIN=$(RELEASE) SIMULATOR=$(SIMULATOR) DEMO_PAUSE=2 \
		python3 docs/record.py --at 'Whoever may read it' docs/demo.cast sh docs/demo.sh) && \
	npx --yes svg-term-cli@2.1.1 --in docs/demo.cast --out docs/demo.svg --at "$$at" --no-cursor --window

dev: bin $(SIMULATOR) ## Leaves a server with the plugin and a simulated Astra running
	@PLUGIN=$(RELEASE) SIMULATOR=$(SIMULATOR) sh docs/demo.sh --stay

test: fmtcheck lint doc bin ## Format, lints, documentation, all tiers of tests
	$(UNDER_TEST) cargo test --locked

test-vault: bin ## Runs the end-to-end tests on HashiCorp Vault (builds Vault with Go unless HOST_BIN names a vault)
	HOST_BIN=$$(sh tests/support/vault-bin.sh) && export HOST_BIN PLUGIN=$(RELEASE) && \
	cargo build --locked --examples && cargo test --locked --test e2e

# unshare: the tests have their own network, and other processes do not see their mounts.
test-roots: bin ## Runs the binary on a server in root file systems of Debian (needs root, debootstrap and a static server)
	sh tests/roots/roots.sh
	cargo test --locked --no-run --test roots
	$(UNDER_TEST) unshare --mount --net sh -c \
		'ip link set lo up && exec cargo test --locked --offline --test roots -- --nocapture'

storm: bin ## Runs a storm of faults and kills (SEED=1 SECONDS=60) and shows its numbers
	$(UNDER_TEST) STORM_SEED=$(SEED) STORM_SECONDS=$(SECONDS) \
	cargo test --locked --test e2e storm::nothing_is_lost -- --nocapture

bench: bin $(OHA) ## Measures speed and size beside the server's kv engine (BENCH_QUICK=1, BENCH_PEER=path, BENCH_WRITE=1)
	@export OHA=$(OHA) && $(MEASURE)

bench-guard: bin ## Compares the instructions of a request with the kept figures (BENCH_GUARD_WRITE=1 keeps them)
	@$(MEASURE) guard

profile: RELEASE := $(PROFILED)
profile: profiled $(OHA) ## Shows where the time of a role read and of a mint goes
	@export OHA=$(OHA) && $(MEASURE) profile

$(OHA):
	cargo install oha --version =$(OHA_VERSION) --locked --root target/tools/oha-$(OHA_VERSION)

# The same versions as in the binary. What is found to be new goes to target/, what breaks a promise to artifacts/.
fuzz: ## Fuzzes each target for FUZZ_SECONDS (30)
	@cargo +nightly fuzz --version >/dev/null 2>&1 || { printf '%s\n' 'fuzzing needs two things that are not here:' \
		'  rustup toolchain install nightly --profile minimal' '  cargo install cargo-fuzz --locked'; exit 1; } >&2
	cp Cargo.lock tests/fuzz/
	cargo +nightly fuzz build --fuzz-dir tests/fuzz --sanitizer none
	@set -e; for target in $$(ls tests/fuzz/corpus); do \
		mkdir -p tests/fuzz/target/corpus/$$target; \
		cargo +nightly fuzz run --fuzz-dir tests/fuzz --sanitizer none $$target tests/fuzz/target/corpus/$$target \
			tests/fuzz/corpus/$$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=1024 -print_final_stats=1; done

fmt: ## Formats the code
	cargo fmt --all

fmtcheck:
	cargo fmt --all --check

lint: ## Lints the code
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --test roots -- -D warnings

doc: ## Builds the code's documentation
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --lib

docs: bin ## Regenerates the output and the tables in the documents from test runs
	$(UNDER_TEST) DOCS_WRITE=1 \
	cargo test --locked --test repository --test e2e -- documents:: docs:: readme:: catalogue::

bin: ## Builds the release binary; `eval "$(make -s bin)"` also sets PLUGIN for the tests
	@echo "building $(RELEASE) (some minutes the first time)" >&2
	$(BUILD)
	@echo "export PLUGIN='$(RELEASE)'"

# The binary of a release also tells what it is made of (`cargo audit bin`). The tool is named without its path, which
# cargo would mix into the names of the binary's symbols; the variable is what `cargo auditable` would set.
release: $(AUDITABLE) $(CYCLONEDX) ## Makes archive, SBOM and checksums for this platform in target/dist
	PATH="$(abspath $(dir $(AUDITABLE))):$$PATH" RUSTC_WORKSPACE_WRAPPER=cargo-auditable \
	CARGO_AUDITABLE_ORIG_ARGS='{"offline":false,"locked":true,"frozen":false,"config":[]}' $(BUILD)
	PATH="$(abspath $(dir $(CYCLONEDX))):$$PATH" sh packaging/dist.sh $(RELEASE) $(TRIPLE)

reproducible: $(AUDITABLE) $(CYCLONEDX) ## Makes the release twice in different folders and compares the bytes
	TOOLS='$(abspath $(TOOLS))' CARGO_HOME='$(CARGO_HOME)' sh packaging/reproducible.sh

deny: $(DENY) ## Checks licences, sources and banned or doubled dependencies; `make deny CHECKS=advisories` known flaws
	$(DENY) --locked check $(CHECKS)

CHECKS ?= licenses bans sources

image: ## Builds the container images from the release in target/dist (needs docker)
	VAULT='$(VAULT)' sh packaging/image.sh

msrv: ## Builds, tests included, with the oldest Rust that Cargo.toml promises, which rustup fetches
	version=$$(sed -n 's/^rust-version = "\(.*\)"$$/\1/p' Cargo.toml) && \
	rustup toolchain install "$$version" --profile minimal --no-self-update && \
	cargo "+$$version" check --locked --all-targets --target-dir target/msrv

# Without optimization and debug information they are there in a third of the time.
$(TOOLS)/%:
	name=$(notdir $@) && version=$$(basename $$(dirname $(@D))) && CARGO_PROFILE_DEV_DEBUG=0 \
	cargo install --quiet --locked --debug --root $(TOOLS)/$$name/$$version $$name@$$version

licenses: ## Writes packaging/licenses.txt, the licences of the dependencies
	python3 packaging/licenses.py list x86_64-unknown-linux-gnu >packaging/licenses.txt

# The release binary with symbols, and with frame pointers for stacks.
profiled:
	RUSTFLAGS='$(STATIC) -C force-frame-pointers=yes' cargo build --locked --profile profiling --bin $(BIN) --target $(TRIPLE)

$(SIMULATOR): FORCE
	cargo build --locked --example astra-simulator

proto: ## Writes src/sdk/pb anew from proto/
	PROTO_WRITE=1 cargo test --locked --test repository generated_code

.PHONY: FORCE profiled
FORCE:
