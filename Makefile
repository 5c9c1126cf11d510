# run    build Signet and serve it with a demo user
# cluster  nginx, five replicas and PostgreSQL on this machine, to break by hand (PORT, GATEWAY)
# test   everything: formatting, vet, static analysis, race and end-to-end tests
# chaos  a million random steps of the rule, thousands of kills under load, on both stores, and a cluster under mixed load
#        (STEPS, KILLS, CHAOS, SEED)
# bench  the figures of docs/benchmarks.md, each beside its bare primitive
# scale  the figures and curves of docs/scale.md (GRANTS, UPDATE=1 to write them there)
# fuzz   every fuzz target for FUZZTIME
.PHONY: run cluster build test lint setup chaos bench scale fuzz

FUZZTIME ?= 10s
# The race detector leaves SQLite's engine out. It is C in the form of Go, has no goroutines of
# its own, and would take six times as long.
RACE = -race $(foreach p,modernc.org/sqlite/lib modernc.org/libc modernc.org/memory,-gcflags=$(p)=-race=false)
# Most of the time of the end-to-end tests is waiting, so four packages run at once, the longest
# first. lint has vetted all packages.
GOTESTSUM = go tool gotestsum --format pkgname-and-test-fails -- -timeout 40m -vet=off -p 4

run: build
	./signet serve --demo

cluster: build
	@go run ./internal/test/cluster/cmd -signet ./signet $(if $(PORT),-port $(PORT)) $(if $(GATEWAY),-gateway $(GATEWAY))

# The tag leaves out of pgx what the program does not use, 1.4 MiB.
TAGS = nopgxregisterdefaulttypes

# Without C the program needs no library of the system it runs on, and 1.2 MiB less memory.
build:
	CGO_ENABLED=0 go build -tags $(TAGS) -trimpath -ldflags '-s -w' -o signet .

# The packages under the race detector; then the commands as users run them, and the tests
# that -short cuts down at their full length.
# All builds but those with the race detector, which is C, have the flags of the program's own, so
# that they share what is compiled.
test: export GOFLAGS += -trimpath -tags=$(TAGS)
test: export CGO_ENABLED = 0
test: setup lint
	CGO_ENABLED=1 $(GOTESTSUM) $(RACE) -short $$(go list ./internal/e2e/... ./server ./... | grep -v '^signet$$')
	$(GOTESTSUM) . ./internal/store ./internal/denylist ./users
	go -C deploy/check test ./...

lint:
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "gofmt would change:"; echo "$$files"; exit 1; fi
	go vet ./...
	go tool staticcheck ./...
	go -C deploy/check vet ./...
	go tool staticcheck -tags failpoint ./internal/failpoint ./internal/store

# What the end-to-end tests need and Go does not bring.
setup:
	@.ci/setup

KILLS ?= 2000
STEPS ?= 1000000
CHAOS ?= 10m

chaos:
	go test -count 1 -timeout 60m -v -run 'RuleEqualsReference' ./internal/denylist -steps $(STEPS)
	SIGNET_TEST_KILLS=$(KILLS) SIGNET_TEST_SEED=$(SEED) go test -count 1 -timeout 60m -v -run 'KilledUnderLoad' ./internal/e2e/faults
	SIGNET_TEST_CHAOS=$(CHAOS) SIGNET_TEST_RACE=1 SIGNET_TEST_SEED=$(SEED) go test -count 1 -timeout 60m -v -run 'MixedLoad' ./internal/test/cluster

bench:
	go test -run '^$$' -bench . ./internal/seal ./jwt ./keys ./users ./internal/denylist ./mcp ./handlers ./server
	go test -run '^$$' -bench '^BenchmarkTargets$$' -benchtime 1x -timeout 30m ./internal/e2e/bench
	go test -run '^$$' -bench '^BenchmarkResilience$$' ./internal/backend
	go test -run '^$$' -bench '^BenchmarkGateway$$' -benchtime 1x -timeout 30m ./internal/e2e/bench
	go test -run '^$$' -bench '^BenchmarkOverload$$' -benchtime 1x -timeout 30m ./internal/e2e/bench

GRANTS ?= 5000000

scale:
	SIGNET_TEST_GRANTS=$(GRANTS) go test -run '^$$' -bench '^BenchmarkScale$$' -benchtime 1x -timeout 60m ./internal/e2e/bench $(if $(UPDATE),-update)

fuzz:
	@for pkg in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$target"; go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done
