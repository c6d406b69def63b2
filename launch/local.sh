#!/usr/bin/env bash
# Starts a training on the ranks of this machine, with the flags its MPI wants.
#
#   launch/local.sh NUM_RANKS CONFIG [bert-train arguments ...]
#   launch/local.sh 2 configs/demo.toml --set schedule.total_steps=100
#
# Works with Open MPI 4 and 5 and with MPICH. More ranks than cores are allowed (they share cores). Root is allowed.
# The program is $BERT_TRAIN, or else the one of `cargo build --release`. Its exit code is passed on.
# SIGTERM, SIGUSR1 and Ctrl-C save a checkpoint and end the run (exit code 75; the same command continues it); a second
# one ends it at once.
#
#   BIND=none   leaves the placement of threads to the operating system (by default each rank keeps its own cores)
#   HOSTFILE=F  runs on the machines named in F (see launch/hostfile.example); the program and the working folder must lie
#               at the same path on all of them
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in -h | --help) usage; exit 0 ;; esac
[ $# -ge 2 ] || die "expected NUM_RANKS and CONFIG; see launch/local.sh --help" 2
num_ranks=$1
config=$2
shift 2
[[ $num_ranks =~ ^[1-9][0-9]*$ ]] || die "NUM_RANKS must be a positive whole number, got \`$num_ranks\`" 2
[ -f "$config" ] || die "no configuration at \`$config\`" 2
program=${BERT_TRAIN:-$target/release/bert-train}
[ -x "$program" ] || die "no program at $program; run \`cargo build --release\` or set BERT_TRAIN"

if [ -n "${HOSTFILE:-}" ]; then
  [ -f "$HOSTFILE" ] || die "no host file at \`$HOSTFILE\`" 2
  BIND=none prepare_mpirun "$num_ranks"
  mpirun_command+=(--hostfile "$HOSTFILE")
else
  prepare_mpirun "$num_ranks"
fi

# mpirun kills one second after SIGTERM or Ctrl-C, too soon to save; SIGUSR1 it passes on. So it gets a process group of
# its own, out of reach of the terminal's Ctrl-C, and the signals go through here.
set -m
"${mpirun_command[@]}" "$program" "$config" "$@" </dev/null &
mpirun_pid=$!
set +m
num_signals=0
forward() {
  num_signals=$((num_signals + 1))
  if [ "$num_signals" -eq 1 ]; then kill -USR1 "$mpirun_pid"; else kill -TERM "$mpirun_pid"; fi
}
trap forward TERM INT USR1

# A signal ends `wait` early: wait again until mpirun has gone.
status=0
wait "$mpirun_pid" || status=$?
while kill -0 "$mpirun_pid" 2>/dev/null; do
  status=0
  wait "$mpirun_pid" || status=$?
done
exit "$status"
