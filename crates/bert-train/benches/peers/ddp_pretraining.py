#!/usr/bin/env python3
"""The peer of `cargo xtask bench train --vs-torch`: the same pre-training step in PyTorch.

Started by `python -m torch.distributed.run`, one process per rank, with one argument: a JSON object with the sizes of the model
(keys of Hugging Face's config.json) and

    rows, length     sequences of a rank and step, tokens of each
    steps            how many to make
    precision        "f32", or "bf16" by autocast
    head             "all": BertForPreTraining as it comes, its MLM head on every position;
                     "labelled": the head only on the positions that have a label
    max_grad_norm    norm to clip at

The model is BertForPreTraining of Hugging Face under DistributedDataParallel over gloo, the optimizer AdamW in its fused
form. The batch is made once, full of ids without padding, 15 % of them labelled: reading, masking and padding are not part of
what the peer is timed for, but of what we are. Rank 0 prints one JSON line: seconds of every step, from the moment when all
ranks begin it until all have ended it, its processor time in each, its largest memory, and the versions.
"""

import json
import os
import resource
import sys
import time

import torch
import torch.distributed as dist
import torch.nn.functional as functional
import transformers

MLM_PROBABILITY = 0.15
IGNORED = -100
SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "layer_norm_eps",
)


class WholeLoss(torch.nn.Module):
    """The loss as BertForPreTraining computes it: logits for every position."""

    def __init__(self, bert):
        super().__init__()
        self.bert = bert

    def forward(self, ids, segments, labels, is_random_next):
        return self.bert(
            input_ids=ids, token_type_ids=segments, labels=labels, next_sentence_label=is_random_next
        ).loss


class LabelledLoss(WholeLoss):
    """The same loss with logits for labelled positions only."""

    def forward(self, ids, segments, labels, is_random_next):
        hidden, pooled = self.bert.bert(ids, token_type_ids=segments)[:2]
        chosen = labels != IGNORED
        words, sentences = self.bert.cls(hidden[chosen], pooled)
        mlm_loss = functional.cross_entropy(words.float(), labels[chosen])
        return mlm_loss + functional.cross_entropy(sentences.float(), is_random_next)


def make_batch(task, rank):
    generator = torch.Generator().manual_seed(1000 + rank)
    shape = (task["rows"], task["length"])
    ids = torch.randint(task["vocab_size"], shape, generator=generator)
    is_labelled = torch.rand(shape, generator=generator) < MLM_PROBABILITY
    second_half = torch.arange(task["length"]) * 2 >= task["length"]
    return (
        ids,
        second_half.long().repeat(task["rows"], 1),
        ids.masked_fill(~is_labelled, IGNORED),
        torch.randint(2, (task["rows"],), generator=generator),
    )


def main():
    task = json.loads(sys.argv[1])
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(7)
    bert = transformers.BertForPreTraining(transformers.BertConfig(**{key: task[key] for key in SIZES}))
    loss_of = {"all": WholeLoss, "labelled": LabelledLoss}[task["head"]](bert).train()
    parallel = torch.nn.parallel.DistributedDataParallel(loss_of)
    optimizer = torch.optim.AdamW(parallel.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    batch = make_batch(task, rank)
    seconds, processor_seconds = [], []
    for _ in range(task["steps"]):
        dist.barrier()
        begun, used = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=task["precision"] == "bf16"):
            loss = parallel(*batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parallel.parameters(), task["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
        dist.barrier()
        seconds.append(time.perf_counter() - begun)
        processor_seconds.append(time.process_time() - used)
    if rank == 0:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        result = {
            "seconds": seconds,
            "processor_seconds": processor_seconds,
            "peak_rss_bytes": usage.ru_maxrss * 1024,
            "minor_faults": usage.ru_minflt,
            "loss": loss.item(),
            "versions": f"torch {torch.__version__}, transformers {transformers.__version__}",
        }
        print(json.dumps(result), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
