# Two commands matter: `make up` and `make test`. `make help` lists all.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help up down clean build test check lint vulns fuzz fmt bench bench-events chaos overload soak

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# A static binary: it runs in any image and on any machine of this architecture.
GOBUILD := CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'
# The slowest package builds images of six languages on two cores.
TEST_TIMEOUT := 25m
FUZZ_SECONDS := 10
# The race detector needs a C compiler; deploy/test-setup installs one, or says that it is missing.
RACE = $(if $(shell command -v $$(go env CC)),-race)

help: ## what can be made
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: ## install what is missing, build, start the gateway, deploy hello and call it
	@deploy/bootstrap
	@. deploy/progress.sh && step "Building bin/kiln" $(MAKE) -s build
	@deploy/up

down: ## stop the gateway; functions and data stay
	@deploy/down

clean: ## remove every container, network, image and volume that Kiln made
	@deploy/clean

build: ## bin/kiln
	@mkdir -p bin
	@$(GOBUILD) -o bin/ ./cmd/...

# Setting up waits for networks and disks while what needs none of it is compiled and looked at.
test: ## set up, then everything: style, vet, staticcheck, govulncheck, fuzz, unit tests with -race, black-box scripts on the engine
	@set -o pipefail; { deploy/test-setup | cat; } & setup=$$!; \
	status=0; $(MAKE) --no-print-directory build lint vulns || status=$$?; \
	wait $$setup && exit $$status
	@$(MAKE) --no-print-directory fuzz check

# What tests the limits of builds holds every build on the engine to a few MiB, and takes what its disk loses for theirs:
# nothing may run beside it, nor be compiled. Of the rest, what takes longest begins first, or it would be alone at the
# end. The black-box scripts come last: what scales is not begun while builds use the processors up. Without go vet, which
# lint has run over the tests as well: here it would look at all that Kiln imports once more.
check: export KILN_BIN = $(CURDIR)/bin/kiln
check: TEST = go test $(RACE) -vet=off -count=1 -timeout $(TEST_TIMEOUT)
check: LIMITS = ./orchestrator/build
check: LONGEST = ./templates ./orchestrator/docker ./orchestrator/jetstream
check: build ## the tests alone
	status=0; $(TEST) $(LIMITS) || status=1; \
	rest=$$(go list ./... | grep -v /cmd/ | grep -vxF "$$(go list $(LIMITS) $(LONGEST))") || status=1; \
	$(TEST) $(LONGEST) $$rest || status=1; \
	$(TEST) ./cmd/... || status=1; exit $$status

# Compiled as bin/kiln is, so that what Kiln is built of is compiled once for both.
lint: export CGO_ENABLED = 0
lint: export GOFLAGS = -trimpath
lint: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l */); [[ -z $$unformatted ]] || { echo "gofmt: run make fmt:"; echo "$$unformatted"; exit 1; }
	go vet ./...
	go tool staticcheck ./...

vulns: ## known vulnerabilities in what Kiln is built of, where the database answers
	@.ci/vulns

fuzz: ## ten seconds of each fuzz target
	@.ci/fuzz $(FUZZ_SECONDS)

fmt: ## format the sources
	gofmt -w */

bench: build ## measure against nginx and docker run; QUICK=1 takes under 3 minutes
	@deploy/bench-setup
	bin/kiln-bench $(if $(QUICK),-quick)

bench-events: build ## measure asynchronous calls and triggers; QUICK=1 is shorter
	@deploy/bench-setup
	bin/kiln-bench $(if $(QUICK),-quick) -only events -out .kiln/bench/events

chaos: build ## break the machine under load for ten minutes and check what is promised (root); SHORT=1 takes one to three
	bin/kiln-chaos $(if $(SHORT),-short) $(if $(SEED),-seed $(SEED))
	bin/kiln-bench $(if $(SHORT),-quick) -only crashes -out .kiln/chaos

overload: build ## three times the capacity for a minute (root)
	bin/kiln-chaos -overload 1m

soak: build ## load at 30 % of the capacity for an hour, and what it leaves (root); SOAK=10m is shorter
	bin/kiln-chaos -soak $(or $(SOAK),1h)
