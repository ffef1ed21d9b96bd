# The two commands a new user needs are `make quickstart` and `make test`.

GO      ?= go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X banger/version.Version=$(VERSION)
export CGO_ENABLED = 0
# Where mke2fs and losetup are, which an ordinary user's shell leaves out.
export PATH := $(PATH):/usr/sbin:/sbin

# What banger needs on a Debian host, and what its tests need beside it.
RUN_PACKAGES  = qemu-system-x86 e2fsprogs git
TEST_PACKAGES = $(RUN_PACKAGES) acl attr busybox-static erofs-utils iproute2 kmod libcap2-bin mmdebstrap tmux uidmap xz-utils

.PHONY: build quickstart test errors check lab lab-shell bench clean packages test-packages dist docs recording

build:
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

quickstart: packages build
	scripts/quickstart

packages:
	scripts/packages $(RUN_PACKAGES)

test-packages:
	scripts/packages $(TEST_PACKAGES)

# Everything, real VMs included. Two packages at a time, as a guest keeps one core
# busy and two cores are the usual. VMs are restored, as users' are, but for the last
# line's, which boot.
test: test-packages build
	$(GO) test -p 2 -timeout 50m ./...
	$(GO) test -timeout 15m ./tests -host=qemu
	$(GO) test -p 2 -timeout 15m ./tests/vm ./tests/crash -warm=false -run 'TestExitStatus|TestStreams|TestHandlesFile|TestKilledAtSpawn'

# gofmt, vet, staticcheck, errcheck (of what ships: tests check what matters to them);
# versions pinned here alone.
check:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "run gofmt -w on these"; exit 1; }
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
	$(GO) run github.com/kisielk/errcheck@v1.30.0 -ignoretests -exclude scripts/errcheck.txt ./...
	@grep -q "suite.*$$(scripts/firecracker-hash)" docs/verification.md || echo "note: firecracker/ has changed since its suite ran on the real one: make lab LAB='-only firecracker', then docs/verification.md"

# Which error texts no test provokes, of those that tests/errors.txt has no reason for.
# tests/vm and tests/crash are left out: their programs are built as they ship, without coverage.
errors: test-packages
	rm -rf bin/coverage && mkdir -p bin/coverage
	BANGER_COVERDIR=$(CURDIR)/bin/coverage $(GO) test -short -p 1 -timeout 50m -coverpkg=banger/... -coverprofile=bin/coverage/tests $$($(GO) list ./... | grep -vE "/tests/(vm|crash)$$")
	$(GO) tool covdata textfmt -i bin/coverage -o bin/coverage/programs
	$(GO) test . -run TestErrorTexts -v -profiles bin/coverage/tests,bin/coverage/programs

# What needs KVM, device-mapper, a firewall or a power cut, in a virtual machine
# that has them: LAB='-list', LAB='-only storm -kills 200', LAB_SUITE=trixie.
# Its value is the shell's to read: an expression's $ isn't make's.
lab: test-packages
	$(GO) run ./lab $(value LAB)

lab-shell: test-packages
	$(GO) run ./lab -shell $(value LAB)

bench: build
	scripts/bench

# A release: one tarball to unpack into ~/.local, and its checksum.
dist:
	$(GO) run ./dist -version $(VERSION) -o release

# What is made from the commands; a test fails when it is stale.
docs:
	$(GO) run ./dist -docs docs/reference/cli.md

# A real session of the installed banger, in a terminal that is written down.
recording: build
	PATH="$(CURDIR)/bin:$$PATH" $(GO) run ./dist -record

clean:
	rm -rf bin release
