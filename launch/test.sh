#!/usr/bin/env bash
# Runs all tests and prints, as its last line, how many passed, failed and were skipped.
#
#   launch/test.sh [filter ...]
#
# Installs what is missing (launch/setup.sh), then runs every test of the workspace with cargo-nextest, or with
# `cargo test` where nextest is not installed, and then the examples in the documentation. A test that cannot run here
# prints a line that starts with `skipped:` and is counted as skipped, not as passed. The whole output is kept in
# <target>/test.log. Exits 0 only if nothing failed.
#
# Where libtorch is assembled (launch/setup.sh --libtorch) everything is built with it, once: tests that build a model run on
# both backends, and those that start the program run again with device.backend = "libtorch". Elsewhere that counts as
# one skipped test.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$(dirname "${BASH_SOURCE[0]}")/libtorch.sh"

case ${1:-} in -h | --help) usage; exit 0 ;; esac

"$root/launch/setup.sh"
cd "$root"
mkdir -p "$target"
log=$target/test.log
status=0
passed=0 failed=0 skipped=0

# Root needs leave from Open MPI, whoever starts mpirun.
if is_root; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi

# run COMMAND ...: keeps all output in the log and shows it without the chatter of tests that pass.
run() {
  "$@" 2>&1 | tee "$log.part" |
    { grep --line-buffered -vE '^\s*(running [0-9]+ tests?|test .* \.\.\. ok|test result: ok.*|stdout ─+|─+|)$' || true; } ||
    status=1
  cat "$log.part" >>"$log"
}

# add_counts LINES IGNORED: adds the numbers before `passed`, `failed` and IGNORED in LINES, and the tests that said `skipped:`.
add_counts() {
  local said
  sum() { { grep -oE "[0-9]+ $1" <<<"$2" || true; } | awk '{ sum += $1 } END { print sum + 0 }'; }
  said=$(grep -acE '^\s*skipped:' "$log.part" || true)
  passed=$((passed + $(sum passed "$1") - said))
  failed=$((failed + $(sum '(failed|timed out)' "$1")))
  skipped=$((skipped + $(sum "$2" "$1") + said))
}

: >"$log"
libtorch_features
# `set -u` of older bash takes an empty array for an unset one.
with=(--release --workspace ${features[@]+"${features[@]}"})
has_nextest=no
if cargo nextest --version >/dev/null 2>&1; then has_nextest=yes; else say "cargo-nextest is not installed; using cargo test"; fi

# all_tests FILTER ...: every test, on each compiled backend where it builds a model.
all_tests() {
  if [ "$has_nextest" = yes ]; then
    run cargo nextest run "${with[@]}" --no-fail-fast --no-tests pass --color never --success-output immediate "$@"
    add_counts "$(grep -aE '^ +Summary ' "$log.part" | tail -n 1 || true)" skipped
  else
    run cargo test "${with[@]}" --no-fail-fast --lib --bins --tests "$@" -- --show-output
    add_counts "$(grep -aE '^test result: ' "$log.part" || true)" ignored
  fi
}

# program_tests FILTER ...: the tests that start the program, once more, on the backend BERT_TRAIN_TEST_BACKEND.
program_tests() {
  if [ "$has_nextest" = yes ]; then
    # Tests that the selection leaves out have been counted before.
    run cargo nextest run "${with[@]}" --no-fail-fast --no-tests pass --color never --success-output immediate \
      --filterset 'package(bert-train) & kind(test)' "$@"
    add_counts "$(grep -aE '^ +Summary ' "$log.part" | tail -n 1 || true)" 'filtered out'
  else
    run cargo test "${with[@]}" --no-fail-fast --test single --test parallel "$@" -- --show-output
    add_counts "$(grep -aE '^test result: ' "$log.part" || true)" ignored
  fi
}

all_tests "$@"
if has_libtorch; then
  say "the tests that start the program, with device.backend = \"libtorch\""
  BERT_TRAIN_TEST_BACKEND=libtorch program_tests "$@"
else
  echo "skipped: the backend libtorch; launch/setup.sh --libtorch assembles it" >>"$log"
  skipped=$((skipped + 1))
fi
run cargo test "${with[@]}" --doc --no-fail-fast "$@"
add_counts "$(grep -aE '^test result: ' "$log.part" || true)" ignored
rm -f "$log.part"

grep -aE '^\s*skipped:' "$log" || true
# A build that fails runs no test at all: that is a failure too.
if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$status" -eq 0 ]
