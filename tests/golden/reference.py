"""Loss and gradient norm of 50 training steps by PyTorch: writes reference.json beside this file.

    BERT_TRAIN_REFERENCE_DUMP=DUMP cargo nextest run --release -p bert-train -E 'test(reference::)'   # may fail
    python reference.py DUMP

The test writes its first weights and its batches to DUMP. Made with torch 2.9.0 and transformers 4.57.6, f32, without
dropout. Each step is one forward pass over the global batch, padded to its longest row. Three optimizers, each after
clipping the global norm to 1 and without decay of biases and LayerNorm:
torch  torch.optim.AdamW, eps 1e-8, and transformers.get_linear_schedule_with_warmup; peak 1e-3
bert   AdamWeightDecayOptimizer and the schedule of google-research/bert optimization.py; eps 1e-6, peak 1e-3
lamb   the formula of apex FusedLAMB (csrc/multi_tensor_lamb.cu) with the schedule of `torch`; eps 1e-6, peak 1e-2
"""
import json
import pathlib
import sys

import torch
import transformers

PEAK, WARMUP, TOTAL = 1e-3, 5, 50
dump = pathlib.Path(sys.argv[1])
steps = [json.loads(line) for line in (dump / "batches.jsonl").read_text().splitlines()]
assert len(steps) == TOTAL
torch.set_num_threads(2)


def tensors(slots):
    """All rows of a step, padded to the longest one."""
    width = max(slot["row_len"] for slot in slots)
    ids, types, mask, labels, pairs = [], [], [], [], []
    for slot in slots:
        row_len = slot["row_len"]
        masked = dict(zip(slot["mlm_positions"], slot["mlm_labels"]))
        pad = [0] * (width - row_len)
        for row, length in enumerate(slot["lengths"]):
            cells = range(row * row_len, (row + 1) * row_len)
            ids.append([slot["input_ids"][i] for i in cells] + pad)
            types.append([slot["token_type_ids"][i] for i in cells] + pad)
            mask.append([1] * length + [0] * (width - length))
            labels.append([masked.get(i, -100) for i in cells] + [-100] * len(pad))
        pairs += slot["nsp_labels"]
    names = ["input_ids", "token_type_ids", "attention_mask", "labels", "next_sentence_label"]
    return dict(zip(names, map(torch.tensor, [ids, types, mask, labels, pairs])))


def decays(name):
    return not name.endswith("bias") and "LayerNorm" not in name


def linear(step, peak):
    return peak * (step / WARMUP if step < WARMUP else (TOTAL - step) / (TOTAL - WARMUP))


class Google:
    """google-research/bert optimization.py: no bias correction, decay beside the Adam term."""

    def __init__(self, named):
        self.state = [(name, p, torch.zeros_like(p), torch.zeros_like(p)) for name, p in named]
        self.number = 0

    @torch.no_grad()
    def step(self):
        number = self.number
        rate = PEAK * (number / WARMUP if number < WARMUP else 1 - number / TOTAL)
        for name, p, m, v in self.state:
            m.copy_(0.9 * m + 0.1 * p.grad)
            v.copy_(0.999 * v + 0.001 * p.grad * p.grad)
            update = m / (v.sqrt() + 1e-6)
            if decays(name):
                update = update + 0.01 * p
            p -= rate * update
        self.number += 1


class Lamb(Google):
    """apex FusedLAMB: both moments corrected, decay inside of the update, trust ratio where there is decay."""

    @torch.no_grad()
    def step(self):
        rate = linear(self.number, 1e-2)
        self.number += 1
        for name, p, m, v in self.state:
            m.copy_(0.9 * m + 0.1 * p.grad)
            v.copy_(0.999 * v + 0.001 * p.grad * p.grad)
            update = (m / (1 - 0.9**self.number)) / ((v / (1 - 0.999**self.number)).sqrt() + 1e-6)
            ratio = 1.0
            if decays(name):
                update = update + 0.01 * p
                sizes = p.norm(), update.norm()
                ratio = (sizes[0] / sizes[1]).item() if min(sizes) > 0 else 1.0
            p -= rate * ratio * update


class Torch:
    """torch.optim.AdamW with the linear schedule of transformers."""

    def __init__(self, named):
        groups = [{"params": [p for name, p in named if decays(name) is flag], "weight_decay": decay}
                  for flag, decay in [(True, 0.01), (False, 0.0)]]
        self.optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.999), eps=1e-8)
        self.schedule = transformers.get_linear_schedule_with_warmup(self.optimizer, WARMUP, TOTAL)

    def step(self):
        self.optimizer.step()
        self.schedule.step()


def curve(kind):
    model = transformers.BertForPreTraining.from_pretrained(dump / "model", attn_implementation="eager").train()
    assert model.config.hidden_dropout_prob == model.config.attention_probs_dropout_prob == 0
    named = list(model.named_parameters())
    optimizer, losses, norms = kind(named), [], []
    for slots in steps:
        model.zero_grad()
        loss = model(**tensors(slots)).loss
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0).item())
        losses.append(loss.item())
        optimizer.step()
    return {"loss": losses, "grad_norm": norms}


result = {"versions": {"torch": torch.__version__, "transformers": transformers.__version__},
          "inputs": (dump / "inputs.txt").read_text().strip()}
for name, kind in [("torch", Torch), ("bert", Google), ("lamb", Lamb)]:
    result[name] = curve(kind)
    print(name, result[name]["loss"][0], result[name]["loss"][-1])
with open(pathlib.Path(__file__).parent / "reference.json", "w") as file:
    json.dump(result, file, indent=0)
    file.write("\n")
