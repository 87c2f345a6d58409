# Goldleaf. Rust and Go must be there; each target gets the Debian packages that it needs when run
# as root, and otherwise says which to install.
.DEFAULT_GOAL := help
.PHONY: help demo test test-long test-k8s check install image bench fuzz clean

help: ## say what there is
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: ## three VMs from one golden image, through Goldleaf
	tests/prerequisites demo
	tests/demo/run

test: ## all tests; KERNEL=uml (default), qemu or host runs those of the kernel; ONLY="word..." some
	tests/run $(ONLY)

test-long: ## hours of power cuts, the model test, the crash matrix, property tests, fuzzing
	tests/long

test-k8s: ## a real Kubernetes with the chart, the driver and the published sidecars; ONLY="word..." some
	tests/k8s/run $(ONLY)

check: ## format, lints, documentation, licences
	tests/prerequisites fuzz
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	cargo clippy --manifest-path tests/fuzz/Cargo.toml --target-dir target/fuzz -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check licenses bans sources; \
	else echo "not checked: licences and bans (get cargo-deny by: cargo install cargo-deny)"; fi

install: ## what `cargo build --release` made, with systemd's units; below DESTDIR if that is set
	@test -x target/release/goldleaf || { echo "build it first, as any user: cargo build --release"; exit 1; }
	install -D -t $(DESTDIR)/usr/local/bin target/release/goldleaf target/release/goldleaf-server \
	  target/release/goldleaf-node-agent target/release/goldleaf-csi
	install -D -m 644 -t $(DESTDIR)/etc/systemd/system docs/systemd/*.service
	install -D -m 644 -t $(DESTDIR)/usr/local/share/doc/goldleaf docs/*.md

image: ## the container image, as an archive for ctr, docker or podman
	tests/prerequisites image
	charts/image/build

bench: ## creating, snapshots and deleting beside raw ioctls, dmsetup and lvm2
	tests/prerequisites bench
	tests/bench/run

fuzz: ## feed the readers of devices, images and rows broken input; FUZZ_SECONDS=60 each
	tests/fuzz/run

clean: ## forget everything that was built, downloaded or logged
	cargo clean
	rm -rf .build
