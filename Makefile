# Everything a developer runs. `make demo` and `make test` need nothing but Debian 12 with Rust.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
BIN := target/x86_64-unknown-linux-gnu/release
# A backtrace costs a third of the time of an error path; tests that want one set it.
unexport RUST_BACKTRACE

.PHONY: help deps build guest image demo test bench fuzz lint advisories clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' Makefile

deps: ## install what is missing (apt, cargo)
	@tools/deps.sh test

build: ## the command line and the agent, optimised
	cargo build --release --locked -p belljar-agent -p belljar-cli

guest: build ## the guest image, in the user's data directory
	$(BIN)/belljar guest build

image: ## the container image of the node installer: target/belljar-node.tar
	cargo build --release --locked -p belljar-agent -p belljar-cli -p belljar-shim
	BELLJAR_DATA=target/image $(BIN)/belljar guest build >/dev/null
	BELLJAR_DATA=target/image $(BIN)/belljar k8s image --out target/belljar-node.tar

demo: ## the whole way on a laptop: a real image, attested, its secret, four attacks
	@tools/deps.sh
	@cargo build --release --locked -p belljar-agent -p belljar-cli -p fraud-scoring -p belljar-e2e
	@$(BIN)/belljar-demo

test: ## unit, property, end-to-end tests in real pod VMs
	@tools/deps.sh test
	cargo build --release --locked -p belljar-agent -p belljar-cli -p fraud-scoring -p belljar-e2e -p belljar-shim -p belljar-kubernetes-tests
	tools/prepare-tests.sh > target/test.env
	source target/test.env; cargo nextest run --workspace --locked --run-ignored only -E 'package(belljar-agent) + package(belljar-cli) + package(belljar-page) + package(belljar-rcar)'
	$(BIN)/belljar-test-cluster up > target/cluster.env
	trap '$(BIN)/belljar-test-cluster down' EXIT; source target/test.env; source target/cluster.env; cargo nextest run --workspace --locked

bench: ## speed as ratios against bare QEMU, in one run (BENCH="-n 9")
	@tools/deps.sh
	cargo build --release --locked -p belljar-agent -p belljar-cli -p fraud-scoring -p belljar-e2e -p belljar-shim -p belljar-kubernetes-tests
	cargo build --release --locked -p belljar-guest-image --example bare_init
	tools/prepare-tests.sh > target/test.env
	$(BIN)/belljar-bench $(BENCH)
	cargo bench -q -p belljar-evidence --bench verify
	tools/bench-measure.py $(BIN)/belljar target/test/data/guest/current
	$(BIN)/belljar-kubernetes-bench $$(grep -oE -- '-n [0-9]+' <<<"$(BENCH)" || true)

fuzz: ## long fuzzing of every parser (SECONDS_EACH=600), and every single bit of genuine evidence flipped
	fuzz/run.sh $${SECONDS_EACH:-600}
	BELLJAR_FULL_SWEEP=1 cargo nextest run --release --locked -p belljar-evidence --test vectors -E 'test(/^bit_flips/)'

lint: ## format, clippy, licences, sources
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny --locked check bans licenses sources

advisories: ## known vulnerabilities of dependencies (fetches the advisory database)
	cargo deny --locked check advisories

clean: ## what the build made in this checkout
	cargo clean
