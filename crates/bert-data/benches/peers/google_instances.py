"""Peer of the benchmark: Google's create_training_instances from text to masked pairs, on one thread.

    python google_instances.py FOLDER VOCAB TEXT

FOLDER holds the package `bert` of the unpacked wheel bert-tensorflow 1.0.4. That code needs TensorFlow and absl only for
flags, logging and opening files, so modules that ignore every call stand in for them. Every line on standard input is a
request, and the answer is one line of JSON like that of data_speed. The vocabulary is read before the clock starts.
Length 128, 20 predictions, one copy of the text, nothing written.
"""
import json
import os
import random
import sys
import time
import types


class Ignored:
    """Whatever is asked of it, it is itself, and it is false."""

    def __getattr__(self, name):
        return self

    def __call__(self, *positional, **named):
        return self

    def __bool__(self):
        return False


def stand_in(name, **content):
    module = types.ModuleType(name)
    module.__dict__.update(content)
    sys.modules[name] = module
    return module


def google(folder):
    ignored = Ignored()
    files = types.SimpleNamespace(GFile=lambda path, mode="r": open(path, mode, encoding="utf-8"))
    v1 = stand_in("tensorflow.compat.v1", flags=ignored, logging=ignored, gfile=files)
    compat = stand_in("tensorflow.compat", v1=v1)
    stand_in("tensorflow", compat=compat)
    stand_in("absl", flags=ignored)
    sys.path.insert(0, folder)
    from bert import create_pretraining_data, tokenization
    return create_pretraining_data.create_training_instances, tokenization.FullTokenizer


def main():
    folder, vocab, text = sys.argv[1:]
    create, tokenizer_of = google(folder)
    tokenizer = tokenizer_of(vocab, do_lower_case=True)
    for _ in sys.stdin:
        start, processor_start = time.perf_counter(), time.process_time()
        instances = create([text], tokenizer, 128, 1, 0.1, 0.15, 20, random.Random(12345))
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - processor_start
        assert instances
        print(json.dumps({"unit": "bytes", "number": os.path.getsize(text), "seconds": seconds,
                          "cpu_seconds": cpu_seconds}), flush=True)


main()
