"""Peer of the benchmark: Hugging Face's collators over rows of token ids, on one thread.

    python hf_collators.py VOCAB ROWS

ROWS.ids and ROWS.starts are what the task `rows` of data_speed wrote. Every line on standard input is a request
{"masking": "token" | "whole_word", "seconds": S}; the answer is one line of JSON like that of data_speed. Rows are lists
of Python integers before the clock starts, as a dataset hands them to a collator. Word starts go in as `chinese_ref`, so
that both sides mask the same words.
"""
import json
import sys
import time

import numpy
import torch
from transformers import BertTokenizerFast, DataCollatorForLanguageModeling, DataCollatorForWholeWordMask

ROW_LEN = 128
BATCH = 32


def batches(tokenizer, prefix, masking):
    ids = numpy.fromfile(prefix + ".ids", dtype="<u4").reshape(-1, ROW_LEN)
    starts = numpy.fromfile(prefix + ".starts", dtype=numpy.uint8).reshape(-1, ROW_LEN)
    special = numpy.isin(ids, [tokenizer.cls_token_id, tokenizer.sep_token_id]).astype(int)
    rows = []
    for row, row_starts, row_special in zip(ids, starts, special):
        if masking == "token":
            rows.append({"input_ids": row.tolist(), "special_tokens_mask": row_special.tolist()})
        else:
            rows.append({"input_ids": row.tolist(), "chinese_ref": numpy.flatnonzero(row_starts == 0).tolist()})
    return [rows[first:first + BATCH] for first in range(0, len(rows) - BATCH + 1, BATCH)]


def main():
    torch.set_num_threads(1)
    tokenizer = BertTokenizerFast(vocab_file=sys.argv[1])
    collators = {"token": DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
                 "whole_word": DataCollatorForWholeWordMask(tokenizer, mlm_probability=0.15)}
    prepared = {masking: batches(tokenizer, sys.argv[2], masking) for masking in collators}
    for line in sys.stdin:
        request = json.loads(line)
        collate, rows = collators[request["masking"]], prepared[request["masking"]]
        collate(rows[0])
        num_tokens, start, processor_start = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - start < request["seconds"]:
            for batch in rows[:8]:
                collate(batch)
                num_tokens += BATCH * ROW_LEN
            rows = rows[8:] + rows[:8]
        print(json.dumps({"unit": "tokens", "number": num_tokens, "seconds": time.perf_counter() - start,
                          "cpu_seconds": time.process_time() - processor_start}), flush=True)


main()
