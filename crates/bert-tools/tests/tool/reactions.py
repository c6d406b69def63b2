"""Poolings on a bare model of another language: reactions of chemistry as rxnfp's pre-trained BERT reads them.

    python reactions.py BERT MATERIAL WORK

BERT: the program `bert`; MATERIAL: the folder of launch/fetch-material.sh; WORK: a folder for what is made.
Standard library only. Makes a model folder with the tokenizer of rxnfp (one regular expression) as a tokenizer.json,
144 reactions (12 types, each on 12 aromatic rings), their vectors by `bert embed` for every pooling, and prints:
  same, other: mean cosine of two reactions of one type on different rings, and of two types on one ring
  ranked: how often a reaction is nearer to one of its type on another ring than to one of another type on its own ring
  neighbour: share of reactions whose nearest neighbour on another ring is of the same type
"""
import collections, json, math, os, re, shutil, subprocess, sys

TOKEN = (r"\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|/|:|~|@|\?|>>?|\*|\$|%[0-9]{2}|[0-9]")
RINGS = ["c1ccccc1", "c1ccc(C)cc1", "c1ccc(F)cc1", "c1ccc(OC)cc1", "c1ccc(Cl)cc1", "c1ccccc1F", "c1ccncc1", "c1ccc(C#N)cc1",
         "c1cccc(C)c1", "c1ccc2ccccc2c1", "c1ccsc1", "c1ccc(C(F)(F)F)cc1"]
TYPES = ["COC(=O){0}.[Na+].[OH-]>>O=C(O){0}", "O=C(Cl){0}.CCN>>CCNC(=O){0}", "O=C(O){0}.CO>>COC(=O){0}",
         "O=[N+]([O-]){0}>>N{0}", "O{0}.CCBr>>CCO{0}", "CC(=O){0}.[BH4-].[Na+]>>CC(O){0}", "OC{0}>>O=C{0}",
         "CC(C)(C)OC(=O)NC{0}>>NC{0}", "N{0}.CC(=O)Cl>>CC(=O)N{0}", "N{0}.CS(=O)(=O)Cl>>CS(=O)(=O)N{0}",
         "O=C{0}.CCN>>CCNC{0}", "N#C{0}>>NC{0}"]
POOLINGS = ["cls", "pooler", "mean", "max", "first-last-mean", "last2-mean"]


def model_folder(material, work):
    """The pre-trained model with its tokenizer in the form of Hugging Face."""
    source = os.path.join(material, "pypi/rxnfp/rxnfp/models/transformers/bert_pretrained")
    folder = os.path.join(work, "model")
    shutil.copytree(source, folder, dirs_exist_ok=True)
    with open(os.path.join(source, "vocab.txt")) as file:
        vocab = {token.rstrip("\n"): idx for idx, token in enumerate(file)}
    split = {"type": "Split", "pattern": {"Regex": TOKEN}, "behavior": "Isolated", "invert": False}
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
             "vocab": vocab}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
                 "pre_tokenizer": split, "post_processor": None, "decoder": None, "model": model}
    for name, value in [("tokenizer.json", tokenizer), ("tokenizer_config.json", {"do_lower_case": False})]:
        with open(os.path.join(folder, name), "w") as file:
            json.dump(value, file)
    return folder


def unit(vector):
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length for value in vector]


def figures(vectors):
    """The figures of one kind of vectors, in the order type, ring."""
    vectors = [unit(vector) for vector in vectors]
    places = [(kind, ring) for kind in range(len(TYPES)) for ring in range(len(RINGS))]
    cosine = [[sum(a * b for a, b in zip(left, right)) for right in vectors] for left in vectors]
    same, other, ranked, neighbour = [], [], [], []
    for i, (kind, ring) in enumerate(places):
        near = [cosine[i][j] for j, place in enumerate(places) if place[0] == kind and place[1] != ring]
        far = [cosine[i][j] for j, place in enumerate(places) if place[0] != kind and place[1] == ring]
        same += near
        other += far
        ranked += [(a > b) + 0.5 * (a == b) for a in near for b in far]
        nearest = max((j for j, place in enumerate(places) if place[1] != ring), key=lambda j: cosine[i][j])
        neighbour.append(places[nearest][0] == kind)
    return [sum(values) / len(values) for values in (same, other, ranked, neighbour)]


def main():
    bert, material, work = sys.argv[1:]
    os.makedirs(work, exist_ok=True)
    folder = model_folder(material, work)
    reactions = [kind.format(ring) for kind in TYPES for ring in RINGS]
    texts, output = os.path.join(work, "reactions.txt"), os.path.join(work, "vectors.jsonl")
    with open(texts, "w") as file:
        file.write("\n".join(reactions) + "\n")
    bags = [collections.Counter(re.findall(TOKEN, reaction)) for reaction in reactions]
    tokens = sorted(set().union(*bags))
    rows = [("bag of tokens", [[float(bag[token]) for token in tokens] for bag in bags])]
    for pooling in POOLINGS:
        subprocess.run([bert, "embed", "--model", folder, "--pooling", pooling, "--input", texts, "--output", output],
                       check=True, stdout=subprocess.DEVNULL)
        with open(output) as file:
            rows.append((pooling, [json.loads(line)["vector"] for line in file]))
    print(f"{'pooling':<16} {'same':>8} {'other':>8} {'ranked':>8} {'neighbour':>10}")
    for name, vectors in rows:
        same, other, ranked, neighbour = figures(vectors)
        print(f"{name:<16} {same:8.4f} {other:8.4f} {ranked:8.1%} {neighbour:10.1%}")


if __name__ == "__main__":
    main()
