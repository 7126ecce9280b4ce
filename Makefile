# Everything below runs as root on a Linux machine with Rust, Go and a C compiler; the rest is installed or built when
# it is first needed.

.DEFAULT_GOAL := help
.PHONY: help demo test bench lint images simulate mutants fuzz fencing footprint faults cluster clean-cluster

# Of the whole workspace, as the tests are built: for single packages cargo builds their dependencies anew.
programs := $(or $(CARGO_TARGET_DIR),target)/debug

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## Show the main job on a cluster of its own: install, annotate, kill the leader, cut its power
	cargo build --quiet --workspace --bin conch-cluster --bin conch-images --bin conch-demo
	$(programs)/conch-images build
	$(programs)/conch-demo

test: ## Run every check and test; prints counts at the end
	@e2e/test.sh

lint: ## Format, file lengths, clippy, what dependencies bring
	@e2e/test.sh lint

images: ## Build the images of operator, sidecar and probe into out/
	cargo build --quiet --workspace --bin conch-images
	$(programs)/conch-images build

simulate: ## Simulate RUNS elections of two minutes (10 million, some hours) on all cores
	cargo run --quiet --package conch-election --example simulate -- $(or $(RUNS),10000000)

mutants: ## Switch off each safety rule of the elector in a copy (or NAMES), and show that the tests notice
	cargo run --quiet --package conch-election --example mutants -- $(NAMES)

fuzz: ## Look for input that breaks a promise, SECONDS_EACH seconds (600) for each parser; needs g++
	@fuzz/run.sh

fencing: ## Show on PostgreSQL and Redis what the fencing token protects from; writes the table of docs/fencing.md
	cargo build --quiet --package conch-cluster --package conch-fencing --bins
	cargo run --quiet --package conch-fencing --bin conch-fencing -- check

bench: ## Measure Conch against client-go, ROUNDS=25, into docs/benchmarks.md (25 minutes on an idle machine)
	cargo build --quiet --package conch-cluster --package conch-bench --bin conch-cluster --bin conch-bench
	cargo run --quiet --package conch-images -- build
	cargo run --quiet --package conch-bench -- compare --rounds $(or $(ROUNDS),25)

footprint: ## Measure the sidecar in a real pod, FOOTPRINT_SECONDS=600, into docs/footprint.md (15 minutes on an idle machine)
	cargo build --quiet --package conch-cluster --package conch-bench --bin conch-cluster --bin conch-bench
	cargo run --quiet --package conch-images -- build
	cargo run --quiet --package conch-bench -- footprint --seconds $(or $(FOOTPRINT_SECONDS),600)

faults: ## Every fault to a leader on a cluster of its own, half an hour (or NAMES of scenarios)
	@e2e/faults.sh

cluster: ## Bring up a cluster with two nodes, named conch
	cargo build --quiet --package conch-cluster
	cargo run --quiet --package conch-cluster -- up

clean-cluster: ## End the clusters that any of these commands left
	@e2e/test.sh clean
