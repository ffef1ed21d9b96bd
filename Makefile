# The two commands a new user needs are `make quickstart` and `make test`.

GO      ?= go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X banger/version.Version=$(VERSION)
export CGO_ENABLED = 0
# Where mke2fs and losetup are, which an ordinary user's shell leaves out.
export PATH := $(PATH):/usr/sbin:/sbin

# What banger needs on a Debian host, and what its tests need beside it.
RUN_PACKAGES  = git
TEST_PACKAGES = $(RUN_PACKAGES) acl attr busybox-static e2fsprogs erofs-utils iproute2 kmod libcap2-bin mmdebstrap openssh-client qemu-system-x86 rsync skopeo sshfs tmux uidmap umoci xz-utils

.PHONY: build quickstart unit unit-most unit-racy test errors check fuzz lab lab-shell bench clean packages test-packages dist docs recording

build:
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

quickstart: packages build
	scripts/quickstart

packages:
	scripts/packages $(RUN_PACKAGES)

test-packages:
	scripts/packages $(TEST_PACKAGES)

# What boots no VM, and so answers soon: for whoever changes something. Searches take a
# sample (-short). The packages in which much happens at once run with the race detector,
# which wants a C compiler. More run at once than there are cores, as many tests wait;
# those that wait longest begin, and the two parts run side by side.
RACY = ./guest ./guest/link ./daemon/operation ./daemon/idle ./daemon/journal ./host/... ./vmm/shim
LONG = ./test/scripts ./daemon/engine ./network/usernet ./dist
SHORT = $(GO) test -short -p 4 -parallel 8
unit: test-packages
	@$(MAKE) --no-print-directory -j 2 --output-sync=target unit-most unit-racy

unit-most:
	$(SHORT) $$($(GO) list $(LONG) ./... | grep -vE '/test/(vm|crash|lab/inside)$$' | grep -vxF "$$($(GO) list $(RACY))")

unit-racy:
	@if command -v cc >/dev/null; then race='CGO_ENABLED=1 $(SHORT) -race'; else echo 'no C compiler here: nothing runs with the race detector'; race='$(SHORT)'; fi; \
	echo "$$race $(RACY)"; env $$race $(RACY)

# Everything, real VMs included. Two packages at a time, as a guest keeps one core
# busy and two cores are the usual; the longest begins, so that nothing waits for it in the
# end. VMs run on what users' do: User-mode Linux where KVM doesn't work. A named part runs on
# QEMU everywhere: the scripts, what is about templates, and of the rest what a VMM could get
# wrong. There VMs are restored, as users' are, but for the last line's, which boot.
ON_QEMU = -hypervisor=qemu -run 'ExitStatus|Streams|Templat|Warm|Restores|Makers|Saboteurs|StateOfAnother|HypervisorUpgraded|HaltUnseen|HostileGuest|Soak'
test: test-packages build
	$(GO) test -p 2 -timeout 50m $$($(GO) list ./test/crash ./test/vm ./...)
	$(GO) test -timeout 30m ./daemon/engine -deep
	$(GO) test -timeout 15m ./test/scripts -host=qemu
	FUZZ=45s scripts/fuzz
	$(GO) test -p 2 -timeout 30m ./test/vm ./test/crash $(ON_QEMU)
	$(GO) test -p 2 -timeout 15m ./test/vm ./test/crash -hypervisor=qemu -warm=false -run 'TestExitStatus|TestStreams|TestHandlesFile|TestKilledAtSpawn'

# gofmt, vet, staticcheck, errcheck (of what ships: tests check what matters to them);
# versions pinned here alone.
check:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "run gofmt -w on these"; exit 1; }
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
	$(GO) run github.com/kisielk/errcheck@v1.30.0 -ignoretests -exclude scripts/errcheck.txt ./...
	@grep -q "suite.*$$(scripts/firecracker-hash)" docs/lab/verification.md || echo "note: vmm/firecracker/ has changed since its suite ran on the real one: make lab LAB='-only firecracker', then docs/lab/verification.md"

# Which error texts no test provokes, of those that test/errors.txt has no reason for.
# test/vm and test/crash are left out: their programs are built as they ship, without coverage.
errors: test-packages
	rm -rf bin/coverage && mkdir -p bin/coverage
	BANGER_COVERDIR=$(CURDIR)/bin/coverage $(GO) test -short -p 1 -timeout 50m -coverpkg=banger/... -coverprofile=bin/coverage/tests $$($(GO) list ./... | grep -vE "/test/(vm|crash)$$")
	$(GO) tool covdata textfmt -i bin/coverage -o bin/coverage/programs
	$(GO) test . -run TestErrorTexts -v -profiles bin/coverage/tests,bin/coverage/programs

# Every parser of others' bytes, for so long in all: FUZZ=30m. See scripts/fuzz.
fuzz:
	FUZZ=$(or $(FUZZ),30m) scripts/fuzz

# What needs KVM, device-mapper, a firewall or a power cut, in a virtual machine
# that has them: LAB='-list', LAB='-only storm -kills 200', LAB_SUITE=trixie.
# Its value is the shell's to read: an expression's $ isn't make's.
lab: test-packages
	$(GO) run ./test/lab $(value LAB)

lab-shell: test-packages
	$(GO) run ./test/lab -shell $(value LAB)

bench: build
	scripts/bench

# A release: one tarball to unpack into ~/.local, and its checksum.
dist:
	$(GO) run ./dist -version $(VERSION) -o release

# What is made from the code; a test fails when it is stale.
docs:
	$(GO) run ./dist -docs

# A real session of the installed banger, in a terminal that is written down.
recording: build
	PATH="$(CURDIR)/bin:$$PATH" $(GO) run ./dist -record

clean:
	rm -rf bin release
