# run    build Signet and serve it with a demo user
# test   everything: formatting, vet, static analysis, race and end-to-end tests
# bench  the figures of the README, each beside its bare primitive
# fuzz   every fuzz target for FUZZTIME
.PHONY: run build test lint setup bench fuzz

FUZZTIME ?= 10s
TESTFLAGS ?= -race -timeout 30m

run: build
	./signet serve --demo

build:
	go build -trimpath -o signet .

test: setup lint
	go tool gotestsum --format pkgname-and-test-fails -- $(TESTFLAGS) ./...

lint:
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "gofmt would change:"; echo "$$files"; exit 1; fi
	go vet ./...
	go tool staticcheck ./...

# What the end-to-end tests need and Go does not bring.
setup:
	@.ci/setup

bench: build
	go test -run '^$$' -bench . -benchmem ./seal ./jwt ./keys ./denylist ./mcp ./handlers
	go test -run '^TestFigures$$' -v -count=1 . -figures

fuzz:
	@for pkg in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$target"; go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done
