"""One tiny model in every format that is read: writes the files beside this script.

    python tiny.py

Made with torch 2.9.0, transformers 4.57.6 and numpy 2.4.6. All files hold the same random values, chosen so that
half precision is exact:
config.json, model.safetensors     BertForPreTraining, f32, as save_pretrained writes it
zip.bin, legacy.bin                the same state dict by torch.save, in its newer and its older form
strided.bin                        the same with every matrix stored column by column
half.safetensors, bf16.safetensors the same in half precision
google.npz, bert_config.json       Google's names and orientation, with slots of Adam
expected.json                      logits of one batch
"""
import json
import pathlib
import re

import numpy
import torch
import transformers
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
torch.manual_seed(20)
config = transformers.BertConfig(
    vocab_size=37, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20,
    max_position_embeddings=11, hidden_act="gelu", layer_norm_eps=1e-12)
model = transformers.BertForPreTraining._from_config(config, attn_implementation="eager").eval()
with torch.no_grad():
    for parameter in model.parameters():
        # Multiples of 1/64 below 2: exact in f16 and in bf16.
        parameter.copy_(torch.randint(-127, 128, parameter.shape) / 64)
model.save_pretrained(HERE)
state = {name: value.clone() for name, value in model.state_dict().items()}
torch.save(state, HERE / "zip.bin")
torch.save(state, HERE / "legacy.bin", _use_new_zipfile_serialization=False)
columns = {name: value.T.contiguous().T if value.dim() == 2 else value for name, value in state.items()}
torch.save(columns, HERE / "strided.bin")
own = {name: value for name, value in state.items() if "decoder" not in name}
save_file({name: value.half() for name, value in own.items()}, HERE / "half.safetensors", {"format": "pt"})
save_file({name: value.bfloat16() for name, value in own.items()}, HERE / "bf16.safetensors", {"format": "pt"})

google = {"global_step": numpy.int64(7)}
for name, value in own.items():
    value = value.numpy()
    name = name.replace("cls.predictions.bias", "cls/predictions/output_bias")
    name = name.replace("cls.seq_relationship.weight", "cls/seq_relationship/output_weights")
    name = name.replace("cls.seq_relationship.bias", "cls/seq_relationship/output_bias")
    name = name.replace("LayerNorm.weight", "LayerNorm/gamma").replace("LayerNorm.bias", "LayerNorm/beta")
    name = name.replace("_embeddings.weight", "_embeddings")
    if name.endswith(".weight"):
        name, value = name.removesuffix(".weight") + "/kernel", value.T
    name = re.sub(r"layer\.(\d+)", r"layer_\1", name).replace(".", "/")
    google[name] = numpy.ascontiguousarray(value)
google["bert/pooler/dense/kernel/adam_m"] = numpy.zeros((12, 12), numpy.float32)
numpy.savez(HERE / "google.npz", **google)
google_config = {key: getattr(config, key) for key in [
    "attention_probs_dropout_prob", "hidden_act", "hidden_dropout_prob", "hidden_size", "initializer_range",
    "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers", "type_vocab_size",
    "vocab_size"]}
(HERE / "bert_config.json").write_text(json.dumps(google_config, indent=2) + "\n")

ids = torch.tensor([[2, 9, 4, 3, 8, 30, 3], [2, 5, 3, 7, 3, 0, 0]])
types = torch.tensor([[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0]])
mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
with torch.no_grad():
    output = model(input_ids=ids, token_type_ids=types, attention_mask=mask)
expected = {"mlm": output.prediction_logits[[0, 0, 1], [1, 4, 3]].tolist(), "nsp": output.seq_relationship_logits.tolist()}
(HERE / "expected.json").write_text(json.dumps(expected) + "\n")
