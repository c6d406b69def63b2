"""Makes google_pairs.vocab.txt and google_pairs.hashes.txt from google_pairs.txt, with Google's own code.

    python google_pairs.py [--instances FILE] [TEXT VOCAB]

Needs Python 3.11 or newer with pip, six and blake3. Downloads bert-tensorflow 1.0.4 (2019) by pip, without installing
it or TensorFlow: a small stand-in takes the place of the modules for files, logs and flags, so that tokens, pairs,
masks and the order of the draws are Google's. That release has no whole-word masking.

google_pairs.hashes.txt: one line per instance of create_training_instances with its default flags, then of SHORT: the
first 16 digits of BLAKE3 of its fields as JSON. With TEXT and VOCAB (a vocab.txt, uncased) nothing is written here;
--instances FILE gets the instances of the default flags, to compare with `bert corpus google-pairs`.
"""
import collections, io, json, pathlib, random, subprocess, sys, tempfile, types, zipfile

import blake3

HERE = pathlib.Path(__file__).parent
PACKAGE = "bert-tensorflow==1.0.4"
SHA256 = "f880680a03fbf637c217443b7d3d8969d0b3aef4822b4ea13c2a124498dd21a0"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
DEFAULT = dict(max_seq_length=128, dupe_factor=10, short_seq_prob=0.1, masked_lm_prob=0.15, max_predictions_per_seq=20)
SHORT = dict(max_seq_length=24, dupe_factor=3, short_seq_prob=0.5, masked_lm_prob=0.3, max_predictions_per_seq=4)
SEEDS = (12345, (1 << 40) + 7)


class Anything:
    """Stands for modules of flags and logging: every attribute is a function that does nothing."""

    def __getattr__(self, name):
        return lambda *positional, **named: None


def google_modules(folder):
    """Google's tokenization and create_pretraining_data, imported over the stand-in."""
    requirement = folder / "requirements.txt"
    requirement.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
    subprocess.check_call([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes",
                           "--only-binary", ":all:", "--dest", str(folder), "--requirement", str(requirement)])
    zipfile.ZipFile(next(folder.glob("*.whl"))).extractall(folder)
    names = ("tensorflow", "tensorflow.compat", "tensorflow.compat.v1", "absl", "bert")
    tensorflow, compat, v1, absl, bert = (types.ModuleType(name) for name in names)
    tensorflow.compat, compat.v1 = compat, v1
    v1.flags = absl.flags = Anything()
    v1.flags.FLAGS = types.SimpleNamespace(preserve_unused_tokens=False)
    v1.logging = Anything()
    v1.gfile = types.SimpleNamespace(GFile=lambda path, mode="r": open(path, mode, encoding="utf-8"))
    bert.__path__ = [str(folder / "bert")]
    sys.modules.update({module.__name__: module for module in (tensorflow, compat, v1, absl, bert)})
    from bert import create_pretraining_data, tokenization
    return tokenization, create_pretraining_data


def write_vocab(tokenization, text, path):
    """Special tokens, every character as a word and as a `##` piece, and every word that occurs three times."""
    words = collections.Counter(tokenization.BasicTokenizer(do_lower_case=True).tokenize(text))
    characters = sorted(set("".join(words)) - {"家"})  # one [UNK]
    frequent = sorted(word for word, number in words.items() if number >= 3 and len(word) > 1)
    tokens = SPECIAL + characters + ["##" + character for character in characters if character.isalnum()] + frequent
    path.write_text("\n".join(tokens) + "\n", encoding="utf-8")


def json_lines(google, tokenizer, text_path, flags, seed):
    instances = google.create_training_instances(
        input_files=[str(text_path)], tokenizer=tokenizer, rng=random.Random(seed), **flags)
    names = ("tokens", "segment_ids", "is_random_next", "masked_lm_positions", "masked_lm_labels")
    for instance in instances:
        yield json.dumps({name: getattr(instance, name) for name in names}, ensure_ascii=False) + "\n"


def main():
    arguments = sys.argv[1:]
    instances = None
    if arguments[:1] == ["--instances"]:
        instances, arguments = arguments[1], arguments[2:]
    text, vocab = map(pathlib.Path, arguments) if arguments else (HERE / "google_pairs.txt", HERE / "google_pairs.vocab.txt")
    with tempfile.TemporaryDirectory() as folder:
        tokenization, google = google_modules(pathlib.Path(folder))
        if not arguments:
            write_vocab(tokenization, text.read_text(encoding="utf-8"), vocab)
        tokenizer = tokenization.FullTokenizer(str(vocab), do_lower_case=True)
        if instances:
            lines = list(json_lines(google, tokenizer, text, DEFAULT, 12345))
            pathlib.Path(instances).write_text("".join(lines), encoding="utf-8")
            print(f"{len(lines)} instances")
        if not arguments:
            out = io.StringIO()
            for flags, seed in zip((DEFAULT, SHORT), SEEDS):
                for line in json_lines(google, tokenizer, text, flags, seed):
                    out.write(blake3.blake3(line.encode()).hexdigest()[:16] + "\n")
            (HERE / "google_pairs.hashes.txt").write_text(out.getvalue())


if __name__ == "__main__":
    main()
