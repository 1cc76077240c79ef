# Builds, tests and installs Moat. `make help` lists the targets; one Makefile, no recursion but for `setup`.

.DEFAULT_GOAL := all
SHELL := /bin/sh

# ---- setup comes first, and alone ------------------------------------------------------------------------------------
# `make setup test` must work on a machine that has nothing but make, also with -j: so when setup is asked for together with
# other goals, those run in a make of their own after it.
ifneq ($(filter setup,$(MAKECMDGOALS)),)

GOALS_AFTER_SETUP := $(filter-out setup,$(MAKECMDGOALS))
FIRST_AFTER_SETUP := $(firstword $(GOALS_AFTER_SETUP))

.PHONY: setup $(GOALS_AFTER_SETUP)
setup:
	@tests/setup.sh
ifneq ($(FIRST_AFTER_SETUP),)
$(FIRST_AFTER_SETUP): setup
	@+$(MAKE) --no-print-directory $(GOALS_AFTER_SETUP)
$(filter-out $(FIRST_AFTER_SETUP),$(GOALS_AFTER_SETUP)): $(FIRST_AFTER_SETUP)
	@:
endif

else

# ---- what is built with what -----------------------------------------------------------------------------------------

ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(origin CXX),default)
CXX := $(if $(findstring clang,$(CC)),clang++,g++)
endif
AR ?= ar
OBJCOPY ?= objcopy
B := build
VERSION := $(shell sed -n 's/^.define MOAT_VERSION "\(.*\)"/\1/p' include/moat/version.h)

PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
MANDIR ?= $(PREFIX)/share/man
DESTDIR ?=

WARNINGS := -Wall -Wextra -Wconversion -Wshadow -Wundef -Wmissing-prototypes -Wstrict-prototypes -Werror
OPTIMISE ?= -O2 -g
# What every object of ours is compiled with. CFLAGS stays the caller's.
BASE := -std=gnu11 $(WARNINGS) -Iinclude -I. -fno-common
# Objects that end up in a program or its address space: only what is marked is visible, thread-local storage needs no
# allocation, exceptions and unwinders pass through, and the compiler may not turn malloc's own parts into calls of malloc.
LIBRARY := -fPIC -fvisibility=hidden -ftls-model=initial-exec -fexceptions -fasynchronous-unwind-tables \
           -fno-builtin-malloc -fno-builtin-calloc -fno-builtin-realloc -fno-builtin-free \
           -fno-builtin-aligned_alloc -fno-builtin-memalign -fno-builtin-posix_memalign
# initfirst: our constructor before all others, our exit hook after them. now: no symbol is looked up inside malloc.
LIBRARY_LINK := -shared -Wl,-soname,libmoat.so -Wl,-z,initfirst -Wl,-z,now -Wl,-z,defs -Wl,-z,noexecstack -Wl,--as-needed

# make V=1 shows whole commands, otherwise a word and a name for each.
ifeq ($(V),1)
show = $(1)
else
show = @printf '  %-4s %s\n' '$(2)' '$@'; $(1)
endif

find_c = $(sort $(foreach directory,$(1),$(shell find $(directory) -name '*.c' 2>/dev/null)))
SRC_HEAP := $(call find_c,src)
SRC_ENGINE := $(call find_c,guard/engine)
SRC_REPORT := $(call find_c,guard/report)
SRC_OPTION := $(call find_c,guard/option)
SRC_PORT := $(call find_c,guard/port/linux)
SRC_ENTRY := $(call find_c,guard/entry)
SRC_CLI := $(call find_c,guard/cli)
SRC_TEST := $(sort $(wildcard tests/unit/*.c))
SRC_MODEL := $(sort $(wildcard fuzz/*model*.c))
# All but the entry layer, which defines malloc: what unit tests are linked with.
SRC_PARTS := $(SRC_HEAP) $(SRC_ENGINE) $(SRC_REPORT) $(SRC_OPTION) $(SRC_PORT)
# Unit tests that say "portable" in their first lines run on 32-bit and bare targets as well.
TEST_PORTABLE := $(shell for f in $(SRC_TEST); do head -n 6 $$f | grep -qi portable && echo $$f; done)
TEST_HEAP := $(filter tests/unit/heap_%,$(SRC_TEST))

OBJ_LIBRARY := $(patsubst %.c,$(B)/obj/lib/%.o,$(SRC_PARTS) $(SRC_ENTRY))
OBJ_CLI := $(patsubst %.c,$(B)/obj/lib/%.o,$(SRC_CLI) $(SRC_REPORT) $(SRC_OPTION))

.PHONY: all setup demo test check-deep lint install uninstall help clean tests-build man bench bench-heap
.DELETE_ON_ERROR:
.SUFFIXES:

all: $(B)/libmoat.so $(B)/libmoat.a $(B)/moat man ## the preload library, the static library, the command, the man pages

# Rebuild everything when the compiler or a flag changed.
FLAGS_NOW := $(CC) $(CXX) $(BASE) $(OPTIMISE) $(CFLAGS) $(LIBRARY)
$(B)/flags: FORCE
	@mkdir -p $(@D); echo '$(FLAGS_NOW)' | cmp -s - $@ || echo '$(FLAGS_NOW)' > $@
.PHONY: FORCE
FORCE:

$(B)/obj/lib/%.o: %.c $(B)/flags Makefile
	@mkdir -p $(@D)
	$(call show,$(CC) $(BASE) $(OPTIMISE) $(LIBRARY) $(CFLAGS) -MMD -MP -c -o $@ $<,cc)

$(B)/libmoat.so: $(OBJ_LIBRARY)
	@mkdir -p $(@D)
	$(call show,$(CC) $(OPTIMISE) $(CFLAGS) $(LIBRARY_LINK) -o $@ $(OBJ_LIBRARY),link)

# spawn.c and preload.c ask the dynamic loader, which a static program does not have. The others' code goes into a section of
# a name of its own, by which Moat tells its own frames from the program's.
OBJ_ARCHIVE := $(patsubst $(B)/obj/lib/%,$(B)/obj/archive/%,\
                 $(filter-out %/entry/spawn.o %/entry/preload.o,$(OBJ_LIBRARY)))
TO_MOAT_TEXT := $(foreach part,.text .text.unlikely .text.startup .text.hot .text.exit,--rename-section $(part)=moat_text)
$(B)/obj/archive/%.o: $(B)/obj/lib/%.o
	@mkdir -p $(@D)
	$(call show,$(OBJCOPY) $(TO_MOAT_TEXT) $< $@,copy)
$(B)/libmoat.a: $(OBJ_ARCHIVE)
	@mkdir -p $(@D); rm -f $@
	$(call show,$(AR) rcs $@ $(OBJ_ARCHIVE),ar)

# Names in reports are demangled by the C++ run-time library; nothing else of it is used.
$(B)/moat: $(OBJ_CLI)
	@mkdir -p $(@D)
	$(call show,$(CC) $(OPTIMISE) $(CFLAGS) -o $@ $(OBJ_CLI) $(LDFLAGS) -ldw -lelf -lstdc++,link)

# ---- tests -----------------------------------------------------------------------------------------------------------
# A variant is the parts and a set of unit tests compiled once more in another way: $(1) name, $(2) flags, $(3) parts,
# $(4) tests, $(5) libraries. The parts become an archive, so that a test drags in only what it uses.
define variant
FLAGS_$(1) := $(2)
PARTS_$(1) := $$(patsubst %.c,$(B)/obj/$(1)/%.o,$(3))
TESTS_$(1) := $$(patsubst %.c,$(B)/obj/$(1)/%.o,$(4))
$(B)/obj/$(1)/%.o: %.c $(B)/flags Makefile
	@mkdir -p $$(@D)
	$$(call show,$$(CC) $$(BASE) $$(FLAGS_$(1)) $$(CFLAGS) -MMD -MP -c -o $$@ $$<,cc)
$(B)/obj/$(1)/libparts.a: $$(PARTS_$(1))
	@rm -f $$@
	$$(call show,$$(AR) rcs $$@ $$(PARTS_$(1)),ar)
$(B)/tests/$(1): $$(TESTS_$(1)) $(B)/obj/$(1)/libparts.a
	@mkdir -p $$(@D)
	$$(call show,$$(CC) $$(FLAGS_$(1)) $$(CFLAGS) -o $$@ $$(TESTS_$(1)) $(B)/obj/$(1)/libparts.a $(5),link)
VARIANTS += $(if $(strip $(4)),$(B)/tests/$(1))
DEPENDENCIES += $$(PARTS_$(1):.o=.d) $$(TESTS_$(1):.o=.d)
endef

HOST := -O2 -g -fexceptions -fasynchronous-unwind-tables
BITS32 := -m32 -isystem /usr/include/x86_64-linux-gnu -Wno-psabi $(HOST)
SANITISE := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
TINY_MAIN := $(wildcard tests/main.c)
# -m32 needs gcc's multilib whatever CC is; the rest follows CC.
$(eval $(call variant,unit,$(HOST) -DMOAT_TEST_CRITERION,$(SRC_PARTS),$(SRC_TEST) $(SRC_MODEL),-lcriterion -ldl))
$(eval $(call variant,unit32,$(BITS32),$(SRC_PARTS),$(if $(TEST_PORTABLE),$(TEST_PORTABLE) $(SRC_MODEL) $(TINY_MAIN)),))
$(eval $(call variant,unit-sanitised,$(SANITISE),$(SRC_PARTS),$(if $(TEST_PORTABLE),$(TEST_PORTABLE) $(SRC_MODEL) $(TINY_MAIN)),))
define heap_variant
$(call variant,heap-hardening$(1),$(HOST) -DMOAT_HEAP_HARDENING=$(1),$(SRC_HEAP),$(if $(TEST_HEAP),$(TEST_HEAP) $(SRC_MODEL) $(TINY_MAIN)),)
$(call variant,heap32-hardening$(1),$(BITS32) -DMOAT_HEAP_HARDENING=$(1),$(SRC_HEAP),$(if $(TEST_HEAP),$(TEST_HEAP) $(SRC_MODEL) $(TINY_MAIN)),)
endef
$(eval $(call heap_variant,0))
$(eval $(call heap_variant,2))

# Every directory under tests/ with a run.sh is a suite: it runs from the top of the tree, finds the build in $$MOAT_BUILD, and
# ends with the line "N passed, N failed". With --deep it runs what is too slow for every day.
SUITES := $(sort $(wildcard tests/*/run.sh))

tests-build: all $(VARIANTS) ## build every unit test binary

test: tests-build ## run every test; the last line sums up
	@MOAT_BUILD=$(B) CC='$(CC)' CXX='$(CXX)' tests/run-all.sh $(VARIANTS) $(SUITES)

check-deep: tests-build ## the tests that take too long for `make test`
	@MOAT_BUILD=$(B) CC='$(CC)' CXX='$(CXX)' tests/run-all.sh --deep $(SUITES)

demo: all ## the annotated reports of a small buggy program, then sqlite3 under Moat
	@MOAT_BUILD=$(B) CC='$(CC)' CXX='$(CXX)' tests/demo/demo.sh

bench: all bench-heap ## the heap against other allocators; what Moat costs, over six programs
	@/usr/bin/python3 tests/programs/cost.py $(B)

# The heap by itself at each hardening level, and the process's own malloc, which the script makes another one by preloading.
BENCH_LEVELS := 0 1 2
BENCH_SOURCES := $(SRC_HEAP) $(wildcard src/*/*.h include/moat/*.h tests/bench/*.h) Makefile
$(B)/bench/mix-heap%: tests/bench/mix.c $(BENCH_SOURCES)
	@mkdir -p $(@D)
	$(call show,$(CC) $(BASE) $(OPTIMISE) -DMOAT_BENCH_HEAP -DMOAT_HEAP_HARDENING=$* -o $@ $< $(SRC_HEAP) -ldl,cc)
$(B)/bench/mix-malloc: tests/bench/mix.c $(BENCH_SOURCES)
	@mkdir -p $(@D)
	$(call show,$(CC) $(BASE) $(OPTIMISE) -o $@ $< -ldl,cc)
$(B)/bench/space64-heap%: tests/bench/space.c $(BENCH_SOURCES)
	@mkdir -p $(@D)
	$(call show,$(CC) $(BASE) $(OPTIMISE) -DMOAT_HEAP_HARDENING=$* -o $@ $< $(SRC_HEAP),cc)
$(B)/bench/space32-heap%: tests/bench/space.c $(BENCH_SOURCES)
	@mkdir -p $(@D)
	$(call show,$(CC) $(BASE) $(BITS32) -DMOAT_HEAP_HARDENING=$* -o $@ $< $(SRC_HEAP),cc)

BENCH_PROGRAMS := $(B)/bench/mix-malloc $(foreach l,$(BENCH_LEVELS),$(addsuffix -heap$(l),$(addprefix $(B)/bench/,mix space64 space32)))
bench-heap: $(BENCH_PROGRAMS) ## the bare heap against glibc, jemalloc and mimalloc; how much a small one holds
	@/usr/bin/python3 tests/bench/bench.py $(B)/bench $(ROUNDS)

lint: all ## formatting, static checkers, include directions
	@MOAT_BUILD=$(B) tests/lint/lint.sh

# ---- man pages, installation -----------------------------------------------------------------------------------------

MAN_PAGES := $(patsubst docs/man/%,$(B)/man/%,$(wildcard docs/man/*.[137])) $(B)/man/moat-options.7
man: $(MAN_PAGES)
$(B)/man/moat-options.7: $(B)/moat
	@mkdir -p $(@D)
	$(call show,$(B)/moat options --man > $@,man)
$(B)/man/%: docs/man/% include/moat/version.h
	@mkdir -p $(@D)
	$(call show,sed 's/@VERSION@/$(VERSION)/g' $< > $@,man)

$(B)/moat.pc: docs/moat.pc.in include/moat/version.h Makefile FORCE
	@mkdir -p $(@D)
	@sed -e 's|@PREFIX@|$(PREFIX)|; s|@LIBDIR@|$(LIBDIR)|; s|@VERSION@|$(VERSION)|' $< > $@

install: all $(B)/moat.pc ## into $(DESTDIR)$(PREFIX)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(LIBDIR)/pkgconfig $(DESTDIR)$(PREFIX)/include/moat
	install -m 755 $(B)/moat $(DESTDIR)$(PREFIX)/bin/moat
	install -m 755 $(B)/libmoat.so $(DESTDIR)$(LIBDIR)/libmoat.so
	install -m 644 $(B)/libmoat.a $(DESTDIR)$(LIBDIR)/libmoat.a
	install -m 644 $(wildcard include/*.h) $(DESTDIR)$(PREFIX)/include/
	install -m 644 include/moat/*.h $(DESTDIR)$(PREFIX)/include/moat/
	install -m 644 $(B)/moat.pc $(DESTDIR)$(LIBDIR)/pkgconfig/moat.pc
	for page in $(MAN_PAGES); do section=$${page##*.}; install -d $(DESTDIR)$(MANDIR)/man$$section; \
	    install -m 644 $$page $(DESTDIR)$(MANDIR)/man$$section/; done

uninstall: ## take away what install put there
	rm -f $(DESTDIR)$(PREFIX)/bin/moat $(DESTDIR)$(LIBDIR)/libmoat.so $(DESTDIR)$(LIBDIR)/libmoat.a
	rm -f $(DESTDIR)$(LIBDIR)/pkgconfig/moat.pc
	rm -rf $(DESTDIR)$(PREFIX)/include/moat
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/,$(wildcard include/*.h))
	for page in $(notdir $(MAN_PAGES)); do rm -f $(DESTDIR)$(MANDIR)/man$${page##*.}/$$page; done

clean: ## remove build/
	rm -rf $(B)

help: ## this list
	@echo "Moat $(VERSION). Targets:"
	@echo "  setup        install the Debian packages that building and testing need; goes with others: make setup test"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' Makefile | while IFS="$$(printf '\t')" read -r name text; do \
	    printf '  %-12s %s\n' "$$name" "$$text"; done
	@echo "Variables: CC, CXX, CFLAGS, OPTIMISE (-O2 -g), PREFIX (/usr/local), LIBDIR, MANDIR, DESTDIR; V=1 shows commands."

DEPENDENCIES += $(OBJ_LIBRARY:.o=.d) $(OBJ_CLI:.o=.d)
-include $(sort $(DEPENDENCIES))

endif
