"""Logits of rxnfp's checkpoints by torch and transformers: writes rxnfp.json beside this file.

    python rxnfp.py MATERIAL

MATERIAL holds pypi/rxnfp (launch/fetch-material.sh). Made with torch 2.9.0 and transformers 4.57.6.
The text is four reactions in SMILES; bert_pretrained is a BertForPreTraining, bert_ft_10k_25s a classifier of 50
classes. Of each position the logits of all ids that are multiples of 37 after the position's index are kept, and the id
with the highest logit when that token alone is masked.
"""
import json
import pathlib
import re
import sys

import torch
import transformers

HERE = pathlib.Path(__file__).parent
TOKEN = re.compile(r"\[[^\]]+\]|Br?|Cl?|[NOSPFIbcnosp()=#+\\/:~@?*$.-]|>>?|%[0-9]{2}|[0-9]")
REACTIONS = [
    "Nc1cccc2cnccc12.O=C(O)c1cc([N+](=O)[O-])c(Sc2c(Cl)cncc2Cl)s1"
    ">>O=C(Nc1cccc2cnccc12)c1cc([N+](=O)[O-])c(Sc2c(Cl)cncc2Cl)s1",
    "CC(C)S.CN(C)C=O.Fc1cccnc1F.O=C([O-])[O-].[K+].[K+]>>CC(C)Sc1ncccc1F",
    "O=C(O)c1ccccc1.CO>>COC(=O)c1ccccc1",
    "CC(=O)Cl.Nc1ccccc1>>CC(=O)Nc1ccccc1",
]


def load(folder, kind, **changes):
    config = transformers.BertConfig(**json.loads((folder / "config.json").read_text()) | changes)
    model = kind._from_config(config, attn_implementation="eager")
    weights = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) <= {"cls.predictions.decoder.bias"}, missing
    assert set(unexpected) <= {"bert.embeddings.position_ids"}, unexpected
    return model.eval()


def short(values):
    return [float(f"{value:.7g}") for value in values]


folder = pathlib.Path(sys.argv[1]) / "pypi/rxnfp/rxnfp/models/transformers"
pretrained = load(folder / "bert_pretrained", transformers.BertForPreTraining)
# Its config.json names two labels; the weights have 50 rows.
labels = {str(idx): str(idx) for idx in range(50)}
classifier = load(folder / "bert_ft_10k_25s", transformers.BertForSequenceClassification,
                  id2label=labels, label2id={name: int(name) for name in labels}, num_labels=50)
vocab = {token: idx for idx, token in enumerate((folder / "bert_pretrained/vocab.txt").read_text().split("\n"))}
rows = []
with torch.no_grad():
    for text in REACTIONS:
        tokens = TOKEN.findall(text)
        assert "".join(tokens) == text
        ids = torch.tensor([vocab[token] for token in ["[CLS]", *tokens, "[SEP]"]])
        output = pretrained(ids[None])
        logits = output.prediction_logits[0]
        places = torch.arange(1, len(ids) - 1)
        masked = ids.repeat(len(places), 1)
        masked[torch.arange(len(places)), places] = vocab["[MASK]"]
        guesses = pretrained(masked).prediction_logits[torch.arange(len(places)), places].argmax(-1)
        class_logits = classifier(ids[None]).logits[0]
        rows.append({
            "input_ids": ids.tolist(),
            "mlm": [short(logits[at, at % 37::37].tolist()) for at in range(len(ids))],
            "nsp": short(output.seq_relationship_logits[0].tolist()),
            "pooled": short(pretrained.bert(ids[None]).pooler_output[0].tolist()),
            "classes": short(class_logits.tolist()),
            "masked_best": guesses.tolist(),
        })
hits = sum(sum(a == b for a, b in zip(row["masked_best"], row["input_ids"][1:])) for row in rows)
total = sum(len(row["masked_best"]) for row in rows)
print(f"masked top-1 {hits}/{total}, classes {[max(range(50), key=row['classes'].__getitem__) for row in rows]}")
versions = {"torch": torch.__version__, "transformers": transformers.__version__}
with open(HERE / "rxnfp.json", "w") as file:
    json.dump({"versions": versions, "mask_id": vocab["[MASK]"], "masked_hits": hits, "reactions": rows}, file)
