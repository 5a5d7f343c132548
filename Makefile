# Thin over scripts/: each target does its own set-up, and says what it installs. ARGS="..." is passed on.
.PHONY: demo test torture bench fuzz lint clean-parts

demo: ## the whole product at work on this machine, in one folder
	@scripts/demo $(ARGS)

test: ## the test suite on a real broker and a real S3 server; what CI runs
	@scripts/test $(ARGS)

torture: ## the suite with full counts, and the S3 servers that have to be refused; hours
	@scripts/torture $(ARGS)

bench: ## CPU and memory for each entry, beside the bare libraries
	@scripts/bench $(ARGS)

fuzz: ## each fuzz target for five minutes; SECONDS_EACH=N for another time
	@scripts/fuzz $(ARGS)

lint: ## format, lints, shell scripts
	cargo fmt --check
	cargo clippy --all-targets --features sim -- -D warnings
	@if command -v shellcheck >/dev/null; then shellcheck -x $(filter-out %.d,$(wildcard scripts/*)) .ci/run; fi

clean-parts: ## what demo and tests have left in the tree (never target/ or the cache)
	rm -rf .demo .test
