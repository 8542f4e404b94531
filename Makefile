# The recipes of this project. The pipeline (.ci/run) runs the same recipes.

SHELL := /bin/bash
CARGO_HOME ?= $(HOME)/.cargo
export PATH := $(CARGO_HOME)/bin:$(PATH)
export CARGO_NET_RETRY ?= 10
step := hack/step.sh
# Most tests wait for a kernel or an API server and use little CPU time, so three run at once on each core.
RUST_TEST_THREADS ?= $(shell echo $$((3 * $$(nproc))))

.PHONY: help prepare tools test check e2e image image-lock generate bench bench-tenants demo demo-cluster picture

help: ## Shows this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

prepare: ## Installs what the recipes need, or prints what is missing
	@hack/prepare.sh

tools: ## Installs what make check needs, without a check of the kernel, or prints what is missing
	@hack/prepare.sh tools

test: ## Runs all tests except e2e; needs root for network namespaces
	@hack/prepare.sh test
	@$(step) "Compile the tests (minutes the first time)" cargo test --locked --no-run
	@$(step) "Find etcd, kube-apiserver and kubectl, or build them (minutes the first time)" hack/kubernetes.sh api
	@$(step) "Find helm, or build it (minutes the first time)" hack/kubernetes.sh helm
	@$(step) "Find promtool and the Python packages of the tests, or fetch them" bash -c 'hack/promtool.sh && hack/python.sh'
	@KUBEBUILDER_ASSETS=$$(hack/kubernetes.sh api) RUST_TEST_THREADS=$(RUST_TEST_THREADS) $(step) "Run every test" cargo test --locked --no-fail-fast

e2e: ## Builds the image and tests it on real nodes with kubelet and containerd; needs root
	@hack/prepare.sh e2e
	@$(step) "Find the programs of a cluster, or build them (15 minutes the first time)" hack/kubernetes.sh cluster
	@$(step) "Build the image (minutes the first time) and check it" hack/image.sh
	@$(step) "Compile the tests" cargo test --locked --test e2e --no-run
	@$(step) "Run the tests on real nodes" cargo test --locked --test e2e -- --test-threads=1 --nocapture

image: ## Builds the image into target/image; needs root
	@hack/prepare.sh image
	@image/build.sh

image-lock: ## Renews image/packages.lock: the Debian packages of the image, by version and hash
	@hack/prepare.sh image
	@image/lock.sh

generate: tools ## Renews generated files: the CRD and its copies, deploy/, the reference, tables in docs/
	@hack/generate.sh

check: tools ## Checks formatting, lints, documentation and, if cargo-deny is installed, dependencies
	@$(step) "Formatting" cargo fmt --check
	@$(step) "Lints (minutes the first time)" cargo clippy --locked --all-targets -- -D warnings
	@$(step) "Lints of the tests on real nodes" cargo clippy --locked --test e2e -- -D warnings
	@RUSTDOCFLAGS="-D warnings" $(step) "Documentation" cargo doc --locked --no-deps --document-private-items
	@if cargo deny --version >/dev/null 2>&1; then $(step) "Dependencies" cargo deny check bans licenses sources; \
	else echo "==> Dependencies: not checked, cargo-deny is not installed (cargo install cargo-deny)"; fi

bench: ## Measures packets, changes, starts and rates with up to 10,000 forwards, beside kube-proxy and others; QUICK=1 measures less; needs root
	@hack/prepare.sh bench
	@$(step) "Find the programs of a cluster, or build them (15 minutes the first time)" hack/kubernetes.sh cluster
	@$(step) "Compile the benchmarks for release (minutes the first time)" cargo bench --locked --bench layout --bench product --bench rates --bench goals --no-run
	@status=0; export KUBEBUILDER_ASSETS=$$(hack/kubernetes.sh cluster); \
	for part in layout product rates; do $(step) "Measure: $$part" cargo bench --locked --bench $$part || status=1; done; \
	$(step) "Compare with the goals" cargo bench --locked --bench goals || status=1; \
	exit $$status

bench-tenants: prepare ## Measures what a tenant at its limits costs another one, with a real API server; needs root
	@$(step) "Find etcd, kube-apiserver and kubectl, or build them (minutes the first time)" hack/kubernetes.sh api
	@$(step) "Compile the benchmark for release (minutes the first time)" cargo bench --locked --bench tenants --no-run
	@KUBEBUILDER_ASSETS=$$(hack/kubernetes.sh api) $(step) "Measure (minutes; results vary less on an idle machine)" cargo bench --locked --bench tenants

demo: prepare ## Shows a forward, hop by hop, in network namespaces; needs root
	@demo/demo.sh

picture: prepare ## Renews docs/demo.svg, the picture in README.md, from the output of the demo; needs root
	@$(step) "Run the demo and draw docs/demo.svg" bash -o pipefail -c 'demo/demo.sh | demo/picture.py'

demo-cluster: prepare ## The demo with kubectl and a real API server (built once, 10 minutes); needs root and Go
	@demo/cluster.sh
