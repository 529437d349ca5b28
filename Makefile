# The commands of this project. `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help run up build test lint load bench bench-hot bench-actors drill check-dashboards stop-test-services

# What measures is built together, whichever part is asked for: another choice of packages is another choice of their
# dependencies' features, and so minutes of building everything again.
build-measuring = cargo build --release --locked -p careforall -p careforall-loadtest -p careforall-benches

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 28

run: ## install what is missing, build, and start with a seeded campaign; Ctrl-C stops it
	@scripts/install-server-programs postgresql
	@$(MAKE) --no-print-directory build
	@exec ./target/release/careforall serve --seed

up: cargo ## three replicas behind nginx on port 8000, with Prometheus on 9090; Ctrl-C ends them
	@scripts/install-server-programs postgresql redis rabbitmq nginx prometheus
	@$(MAKE) --no-print-directory build
	@exec scripts/up

build: cargo ## build the release binary: target/release/careforall
	cargo build --release --locked

test: cargo ## find or start PostgreSQL, Redis and RabbitMQ, then check format, lints and tests
	@scripts/install-server-programs postgresql redis rabbitmq
	@for it in venv nginx prometheus shellcheck systemd openssl; do scripts/install-server-programs $$it || true; done
	@scripts/test

check-dashboards: ## ask every panel's query of a Prometheus that watches a real run, and print the table
	@scripts/install-server-programs postgresql redis rabbitmq prometheus
	@scripts/check-dashboards

lint: cargo ## check format and lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

load: loadtest ## load a server made for it, audit it, write target/load.html: two to three minutes
	@./target/release/careforall-loadtest all --html target/load.html --json target/load.json

bench: cargo ## compare our way with the usual one, pgbench and a bare handler: seven to nine minutes
	@scripts/install-server-programs postgresql
	$(build-measuring)
	@./target/release/careforall-loadtest bench --json target/bench.json

bench-hot: cargo ## hold the hot functions against benches/budget.toml: instructions (with valgrind) and nanoseconds
	$(build-measuring)
	@./target/release/careforall-benches hot

bench-actors: cargo ## weigh 100,000 idle payment actors, let them retire, and do it again
	@scripts/install-server-programs postgresql
	$(build-measuring)
	@./target/release/careforall-benches actors

.PHONY: loadtest
loadtest: cargo
	@scripts/install-server-programs postgresql
	$(build-measuring)

drill: cargo ## restart three replicas behind nginx 20 times under 150 donations a second, and print what failed: 15 minutes
	@scripts/install-server-programs postgresql redis rabbitmq nginx
	cargo build --release --locked
	@eval "$$(scripts/start-test-services)" && export CAREFORALL_TEST_PROGRAM=target/release/careforall \
		CAREFORALL_TEST_ROUNDS=$${ROUNDS:-20} CAREFORALL_TEST_RATE=$${RATE:-150} && \
		cargo test --locked --test main rolling:: -- --nocapture

stop-test-services: ## end the private services that `make test` started
	@scripts/stop-test-services

.PHONY: cargo
cargo:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }
