#!/usr/bin/env bash
# Runs all tests and prints, as its last line, how many passed, failed and were skipped.
#
#   launch/test.sh [filter ...]
#
# Installs what is missing (launch/setup.sh), then runs every test of the workspace with cargo-nextest, or with
# `cargo test` where nextest is not installed, and then the examples in the documentation. A test that cannot run here
# prints a line that starts with `skipped:` and is counted as skipped, not as passed. The whole output is kept in
# <target>/test.log. Exits 0 only if nothing failed.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

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
if cargo nextest --version >/dev/null 2>&1; then
  run cargo nextest run --release --workspace --no-fail-fast --no-tests pass --color never --success-output immediate "$@"
  add_counts "$(grep -aE '^ +Summary ' "$log.part" | tail -n 1 || true)" skipped
else
  say "cargo-nextest is not installed; using cargo test"
  run cargo test --release --workspace --no-fail-fast --lib --bins --tests "$@" -- --show-output
  add_counts "$(grep -aE '^test result: ' "$log.part" || true)" ignored
fi
run cargo test --release --workspace --doc --no-fail-fast "$@"
add_counts "$(grep -aE '^test result: ' "$log.part" || true)" ignored
rm -f "$log.part"

grep -aE '^\s*skipped:' "$log" || true
# A build that fails runs no test at all: that is a failure too.
if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$status" -eq 0 ]
