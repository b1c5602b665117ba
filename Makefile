# The front door for people and CI. Recipes are plain commands and scripts; the scripts explain the details.
# `make -C packaging` lists the targets for releases and dependencies.

# Set-up in front of a command: builds the release binary, finds or fetches a server, builds the simulated Astra.
plugin    := PLUGIN=$$(sh packaging/build.sh) && export PLUGIN
server    := HOST_BIN=$$(sh tests/support/host-bin.sh) && export HOST_BIN
vault     := HOST_BIN=$$(sh tests/support/vault-bin.sh) && export HOST_BIN
simulator := SIMULATOR=$$(sh tests/support/simulator-bin.sh) && export SIMULATOR

.PHONY: help demo dev test test-vault test-roots storm fuzz bench scale fmt lint docs proto bin

help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-13s %s\n", $$1, $$2 }' Makefile

demo: ## Mints, shows, renews and revokes a token on a real server
	@$(plugin) && $(simulator) && sh docs/demo.sh

dev: ## Starts a server with the plugin and a simulated Astra, until Ctrl-C
	@$(plugin) && $(simulator) && sh docs/demo.sh --stay

test: lint ## Checks format, lints and documentation, and runs all tests
	cargo test --locked --workspace
	$(plugin) && $(server) && $(simulator) && cargo test --locked --test conformance --test e2e

test-vault: ## Runs the tests on Go's plugin host, and the end-to-end tests on HashiCorp Vault (builds Vault with Go unless HOST_BIN names a vault)
	$(plugin) && sh tests/conformance/go-host/run.sh
	$(plugin) && $(vault) && $(simulator) && cargo build --locked --examples && cargo test --locked --test e2e

test-roots: ## Runs the binary in root file systems of Debian (needs root, debootstrap and a static server)
	$(plugin) && $(server) && sh tests/roots/run.sh

storm: ## Runs a long storm of faults, with requests that take effect up to two minutes late (STORM_SEED=1)
	$(plugin) && $(server) && STORM_SECONDS=$${STORM_SECONDS:-90} STORM_LATE=$${STORM_LATE:-120} \
	cargo test --locked --test e2e -- --exact storm::no_token_is_lost_in_a_storm --nocapture

fuzz: ## Fuzzes each target (FUZZ_SECONDS=30)
	sh tests/fuzz/run.sh

bench: ## Measures speed and size; MODE=guard compares instructions with the kept ones, MODE=profile shows where time goes
	@$(server) && sh tests/bench/run.sh $(MODE)

scale: ## Measures with 10,000 organizations and 200,000 tokens; MODE=stop measures stops while Astra hangs
	@$(server) && sh tests/bench/run.sh scale $(MODE)

fmt: ## Formats the code
	cargo fmt --all

lint: ## Checks the format, lints the code and builds its documentation
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --test roots --test conformance --test e2e -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps --lib

docs: ## Writes the samples and tables of the documents from test runs
	$(plugin) && $(server) && $(simulator) && DOCS_WRITE=1 \
	cargo test --locked --test repository --test e2e -- documents:: docs:: readme:: catalogue:: operations:: root_expiry:: proxy:: servers:: tidy:: lookup:: team:: attacks::

proto: ## Writes sdk/src/pb from proto/
	PROTO_WRITE=1 cargo test --locked --test repository generated_code

bin: ## Builds the release binary; `eval "$(make -s bin)"` also sets PLUGIN for the tests
	@$(plugin) && echo "export PLUGIN='$$PLUGIN'"
