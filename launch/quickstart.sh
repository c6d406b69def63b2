#!/usr/bin/env bash
# From nothing to a trained model: installs, fetches the demo corpus, builds, trains on two ranks, reports.
#
#   launch/quickstart.sh [--fresh] [--ranks N] [bert-train arguments ...]
#
#   --fresh     trains from the beginning: an earlier run folder is renamed, not deleted
#   --ranks N   number of MPI ranks, 2 unless given
#
# Run again at any time: what is there already is kept, an interrupted training continues where it was saved, and a
# finished one is only reported. Training takes five to nine minutes on two cores; building the first time about ten.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$(dirname "${BASH_SOURCE[0]}")/libtorch.sh"

fresh=no
num_ranks=2
train_arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --fresh) fresh=yes ;;
    --ranks) num_ranks=${2:?--ranks needs a number}; shift ;;
    *) train_arguments+=("$1") ;;
  esac
  shift
done

cd "$root"
config=configs/demo.toml
run=runs/demo
bert=$target/release/bert

phase_names=()
phase_seconds=()
# phase NAME COMMAND ...: runs the command and remembers its wall time.
phase() {
  local name=$1 start=$SECONDS
  shift
  say "$name"
  "$@"
  phase_names+=("$name")
  phase_seconds+=($((SECONDS - start)))
}

build() {
  libtorch_features
  cargo build --release --package bert-train --package bert-tools ${features[@]+"${features[@]}"}
}

train_vocabulary() {
  if [ -s data/demo/vocab.txt ]; then
    say "vocabulary is there: data/demo/vocab.txt"
  else
    "$bert" vocab train --input data/demo/corpus.txt --output data/demo/vocab.txt --size 4096 --lowercase true
  fi
}

move_aside() {
  local number=1
  while [ -e "$run.$number" ]; do number=$((number + 1)); done
  mv "$run" "$run.$number"
  say "the earlier run is now $run.$number"
}

train() {
  if [ "$fresh" = yes ] && [ -e "$run" ]; then move_aside; fi
  launch/local.sh "$num_ranks" "$config" "${train_arguments[@]}"
}

phase "install what is missing" launch/setup.sh --demo
phase "fetch the demo corpus" launch/fetch-demo.sh
phase "build" build
phase "train the vocabulary" train_vocabulary
phase "build the shards" "$bert" shards build --config "$config"
phase "train on $num_ranks ranks" train

say "result"
"$bert" report --summary "$run"
say "three held-out sentences, one token masked in each, with the five best guesses"
"$bert" fill-mask --run "$run" --held-out 3 --top 5

say "wall time"
for ((i = 0; i < ${#phase_names[@]}; i++)); do printf '%6d s  %s\n' "${phase_seconds[i]}" "${phase_names[i]}"; done
