# Moongate. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := build
MAKEFLAGS += --no-builtin-rules

PREFIX ?= /usr/local
VARIANT ?= release
CLANG_TIDY ?= clang-tidy
# One version on both Debians: another one sets other lines.
CLANG_FORMAT ?= clang-format-19
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# ---- variants: release, dev (ASan+UBSan, warnings are errors), tsan -------------------------------------------------------------
OUT_release := build
OUT_dev     := build/dev
OUT_tsan    := build/tsan
OUT_clang   := build/clang
OUT_fuzz    := build/fuzz
OUT         := $(OUT_$(VARIANT))
# Link-time optimisation saves 8% of the user instructions of a small request. Tried without gain: llhttp at -O3, -fno-plt. llhttp's SSE4.2 code stays out:
# it has no check at run time, and not every amd64 machine of Debian's baseline has it.
ifneq ($(findstring Free Software Foundation,$(shell $(CC) --version 2>/dev/null)),)
LTO_release := -flto=auto
endif
FLAGS_release := -O2 -g $(LTO_release)
FLAGS_dev     := -O1 -g -Werror -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
FLAGS_tsan    := -O1 -g -Werror -fsanitize=thread -fno-omit-frame-pointer
FLAGS_clang   := -O1 -g -Werror
FLAGS_fuzz    := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wwrite-strings -Wvla

PACKAGES_C := libuv openssl luajit libpcre2-8 libcares libcurl yaml-0.1
ifneq ($(wildcard /usr/share/llhttp/llhttp.c),)
LLHTTP_OBJECTS := $(addprefix $(OUT)/llhttp/,api.o http.o llhttp.o)
LLHTTP_LIBS :=
else
LLHTTP_LIBS := -lllhttp
endif
PC_CFLAGS = $(shell pkg-config --cflags $(PACKAGES_C) 2>/dev/null) $(if $(wildcard /usr/share/include/llhttp/llhttp.h),-I/usr/share/include/llhttp) $(if $(wildcard /usr/include/llhttp/llhttp.h),-I/usr/include/llhttp)
PC_LIBS   = $(shell pkg-config --libs $(PACKAGES_C) 2>/dev/null)
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

CFLAGS_ALL = -std=gnu17 $(WARNINGS) $(FLAGS_$(VARIANT)) -fPIC -pthread -Icore -I. -D_GNU_SOURCE \
  -DMOONGATE_VERSION='"$(VERSION)"' -DMOONGATE_PREFIX='"$(PREFIX)"' $(PC_CFLAGS) $(CFLAGS)
LIBS = $(LLHTTP_LIBS) $(PC_LIBS) -lcrypt -lm -ldl -pthread

SOURCES := $(wildcard core/*/*.c kube/*.c)
OBJECTS := $(patsubst %.c,$(OUT)/obj/%.o,$(filter-out core/app/main.c,$(SOURCES)))
UNIT_TESTS := $(patsubst tests/unit/%.c,$(OUT)/unit/%,$(wildcard tests/unit/test_*.c))
FUZZERS := $(patsubst tests/fuzz/%.c,$(OUT)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_REPLAY := $(patsubst tests/fuzz/fuzz_%.c,$(OUT)/fuzz/replay_%,$(wildcard tests/fuzz/fuzz_*.c))

.PHONY: help deps build dev fuzz tsan all-tests test test-long unit spec e2e check test-cluster bench bench-cluster docs lint format format-check install image run clean churn waits layering

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

APT_PACKAGES := gcc make pkg-config git libc6-dev libuv1-dev libssl-dev libluajit-5.1-dev luajit lua-cjson lua-busted lua-check libcmocka-dev \
  libpcre2-dev libc-ares-dev libcurl4-openssl-dev libyaml-dev libcrypt-dev clang libclang-rt-dev clang-tidy clang-format-19 python3 python3-pytest python3-yaml openssl curl ca-certificates procps iproute2 util-linux
build/.deps: Makefile
	@mkdir -p build
	@missing=""; for p in $(APT_PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	 if apt-cache show libllhttp-dev >/dev/null 2>&1; then l=libllhttp-dev; else l=node-llhttp; fi; \
	 if ! dpkg -s libllhttp-dev >/dev/null 2>&1 && ! dpkg -s node-llhttp >/dev/null 2>&1; then missing="$$missing LLHTTP"; fi; \
	 if [ -n "$$missing" ] && [ -n "$(SUDO)" ] && ! command -v sudo >/dev/null; then \
	   echo "Packages are missing, and this user can install none (not root, no sudo). As root:"; echo "  apt-get install --no-install-recommends$${missing/LLHTTP/$$l}"; exit 1; fi; \
	 if [ -n "$$missing" ]; then echo "installing:$$missing"; $(SUDO) apt-get update -qq || exit 1; \
	   if apt-cache show libllhttp-dev >/dev/null 2>&1; then l=libllhttp-dev; else l=node-llhttp; fi; \
	   DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends $${missing/LLHTTP/$$l} >build/deps.log 2>&1 || { cat build/deps.log; exit 1; }; fi
	@touch $@
deps: ## installs what building and testing need (Debian packages; sudo where not root)
	@rm -f build/.deps; $(MAKE) --no-print-directory build/.deps

# The compiler's flags come from pkg-config, which `deps` may only now have installed: hence a second make.
build: build/.deps ## release build: build/moongate, and build/lib for `moongate test`
	@$(MAKE) --no-print-directory -s -j$$(nproc) VARIANT=release binary library
dev: build/.deps ## ASan+UBSan build, warnings are errors: build/dev/moongate
	@$(MAKE) --no-print-directory -s -j$$(nproc) VARIANT=dev binary library
fuzz: build/.deps ## clang's fuzzers, each from its corpus for FUZZ_SECONDS (60)
	@bash tests/run.sh fuzz
tsan: build/.deps ## TSan build: build/tsan/moongate
	@$(MAKE) --no-print-directory -s -j$$(nproc) VARIANT=tsan binary

.PHONY: binary units library fuzzers
fuzzers: $(FUZZERS)
binary: $(OUT)/moongate
library: $(OUT)/lib/moongate/core.so
units: $(UNIT_TESTS) $(FUZZ_REPLAY)

$(OUT)/llhttp/%.o: /usr/share/llhttp/%.c
	@mkdir -p $(@D)
	@$(CC) -O2 -g $(LTO_$(VARIANT)) -fPIC -DLLHTTP_STRICT_MODE=1 $(PC_CFLAGS) -c $< -o $@
$(OUT)/obj/%.o: %.c
	@mkdir -p $(@D)
	@echo "  CC $(VARIANT) $<"
	@$(CC) $(CFLAGS_ALL) -MMD -MP -c $< -o $@
$(OUT)/libmoongate.a: $(OBJECTS) $(LLHTTP_OBJECTS)
	@rm -f $@; $(if $(LTO_$(VARIANT)),gcc-ar,$(AR)) rcs $@ $^
$(OUT)/moongate: $(OUT)/obj/core/app/main.o $(OUT)/libmoongate.a
	@$(CC) $(CFLAGS_ALL) -rdynamic $< -Wl,--whole-archive $(OUT)/libmoongate.a -Wl,--no-whole-archive $(LIBS) -o $@
$(OUT)/lib/moongate/core.so: $(OUT)/libmoongate.a
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS_ALL) -shared -Wl,--whole-archive $< -Wl,--no-whole-archive $(filter-out -lluajit-5.1,$(LIBS)) -o $@
$(OUT)/unit/%: tests/unit/%.c $(OUT)/libmoongate.a
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS_ALL) -Wno-missing-prototypes $< $(OUT)/libmoongate.a $(LIBS) -lcmocka -o $@
$(OUT)/fuzz/replay_%: tests/fuzz/fuzz_%.c tests/fuzz/replay.c $(OUT)/libmoongate.a
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS_ALL) -Wno-missing-prototypes tests/fuzz/replay.c $< $(OUT)/libmoongate.a $(LIBS) -o $@
$(OUT)/fuzz/fuzz_%: tests/fuzz/fuzz_%.c $(OUT)/libmoongate.a
	@mkdir -p $(@D)
	@$(CC) $(CFLAGS_ALL) -fsanitize=fuzzer -Wno-missing-prototypes $< $(OUT)/libmoongate.a $(LIBS) -o $@
-include $(OBJECTS:.o=.d) $(OUT)/obj/core/app/main.d

# A file that was linted is linted again when it, a header of it, the list of checks or the linter changed.
LINTED := $(patsubst %.c,build/lint/$(notdir $(CLANG_TIDY))/%.ok,$(SOURCES))
TIDY_FLAGS = -std=gnu17 $(WARNINGS) -Icore -I. -D_GNU_SOURCE -DMOONGATE_VERSION='""' -DMOONGATE_PREFIX='""' $(PC_CFLAGS)
.PHONY: linted
linted: $(LINTED)
build/lint/$(notdir $(CLANG_TIDY))/%.ok: %.c .clang-tidy $(wildcard $(shell command -v $(CLANG_TIDY)))
	@mkdir -p $(@D)
	@$(CC) $(TIDY_FLAGS) -MM -MP -MT $@ -MF $(@:.ok=.d) $<
	@out=$$($(CLANG_TIDY) --quiet $< -- $(TIDY_FLAGS) 2>&1) || { echo "$$out"; exit 1; }
	@touch $@
-include $(LINTED:.ok=.d)

# ---- tests ----------------------------------------------------------------------------------------------------------------------------
test: build/.deps ## everything a change needs; ends with "N passed, N failed"
	@bash tests/run.sh
test-long: build/.deps ## TSan, longer churn
	@bash tests/run.sh long
test-cluster: build/.deps ## against a real Kubernetes API server in a network namespace; needs Go 1.26 and root; first time: builds it, 5 minutes
	@bash tests/run.sh cluster
unit: build/.deps ## C unit tests, ASan+UBSan
	@bash tests/run.sh unit
spec: build/.deps ## busted specs on LuaJIT
	@bash tests/run.sh spec
e2e: build/.deps ## end-to-end tests
	@bash tests/run.sh e2e
check: build/.deps ## layering, sizes, format, luacheck
	@bash tests/run.sh check
churn: build ## 30 s of configuration changes under load
	@python3 tests/e2e/churn.py --binary build/moongate --seconds 30
waits: build ## policies that wait: latency beside a thousand of them, and 200 changes under load
	@python3 tests/e2e/waits.py --binary build/moongate
docs: build/.deps ## writes docs/policies.md and docs/annotations.md anew from the sources
	@bash tests/run.sh docs
bench: build ## CPU per request beside nginx and HAProxy; bench-cluster too, where its cluster is built
	@bash tests/bench/run.sh
bench-cluster: build ## 10,000 Ingresses in a real API server: start, memory, how soon a change is served; needs what test-cluster needs
	@python3 tests/bench/cluster_scale.py
lint: build/.deps ## clang-tidy with its static analyzer, and luacheck
	@$(MAKE) --no-print-directory -s -k -j$$(nproc) linted
	@luacheck -q lua policies kube spec docs
format: build/.deps ## clang-format in place
	@$(CLANG_FORMAT) -i $$(git ls-files '*.c' '*.h')
format-check: build/.deps ## says which C files `make format` would change
	@$(CLANG_FORMAT) --dry-run --Werror $$(git ls-files '*.c' '*.h')

install: build ## to $(PREFIX)
	@install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/moongate
	@install -m 755 build/moongate $(DESTDIR)$(PREFIX)/bin/moongate
	@install -D -m 755 build/lib/moongate/core.so $(DESTDIR)$(PREFIX)/lib/moongate/core.so
	@for d in lua policies kube; do find $$d -name '*.lua' | while read -r f; do install -D -m 644 $$f $(DESTDIR)$(PREFIX)/share/moongate/$$f; done; done
image: build/.deps ## build/moongate-image.tar: the container image moongate:dev, without a registry (root)
	@missing=""; for p in buildah debootstrap libcap2-bin; do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	 [ -z "$$missing" ] || { $(SUDO) apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends $$missing >/dev/null; }
	@$(SUDO) bash kube/deploy/image/build.sh
run: build ## starts Moongate on the sample manifests, with three echo processes behind it
	@bash tests/sample/run.sh
clean: ## removes build/
	rm -rf build
