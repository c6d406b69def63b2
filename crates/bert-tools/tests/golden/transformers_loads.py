"""Checks that transformers loads a folder of ours as the model that it came from.

    python transformers_loads.py FOLDER ORIGINAL.bin OUTPUTS.json

FOLDER loads as BertForPreTraining without missing or unexpected keys; every tensor of ORIGINAL.bin, a state dict of
torch, is in it bit by bit; and the logits are those of OUTPUTS.json, which we computed from FOLDER.
"""
import json
import sys

import torch
import transformers

folder, original, outputs = sys.argv[1:]
model, info = transformers.BertForPreTraining.from_pretrained(
    folder, output_loading_info=True, attn_implementation="eager")
problems = {key: list(value) for key, value in info.items() if value}
assert not problems, problems
state = model.eval().state_dict()
weights = torch.load(original, map_location="cpu", weights_only=True)
compared = 0
for name, value in weights.items():
    if name.endswith("position_ids"):
        continue
    assert torch.equal(state[name].view(torch.int32), value.contiguous().view(torch.int32)), name
    compared += 1
ours = json.load(open(outputs))
with torch.no_grad():
    output = model(input_ids=torch.tensor([ours["input_ids"]]), token_type_ids=torch.tensor([ours["token_type_ids"]]))
pairs = [(output.prediction_logits, ours["mlm"]), (output.seq_relationship_logits, ours["nsp"])]
difference = max((theirs.flatten() - torch.tensor(own)).abs().max().item() for theirs, own in pairs)
assert difference < 2e-4, difference
print(f"{compared} tensors equal bit by bit, logits differ by at most {difference:.1e}")
