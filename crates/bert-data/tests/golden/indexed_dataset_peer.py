"""Reads our shard with Megatron-LM's IndexedDataset and writes the same documents with its IndexedDatasetBuilder.

    python indexed_dataset_peer.py DOCUMENTS SHARD OUT

DOCUMENTS: JSON, a list of documents, each a list of sentences, each a list of token ids; SHARD: our files without
extension. Ends with 1 and says where, if a sentence or a document border differs. Then writes OUT-u16.{bin,idx} and
OUT-i32.{bin,idx} from DOCUMENTS. Needs numpy and megatron-core (0.16.1 tried; `pip install --no-deps` is enough).
Of torch only names are needed, so a stand-in takes its place.
"""
import importlib.machinery, importlib.util, json, sys, types

import numpy


class Anything(types.ModuleType):
    """A module with any attribute: a class that does nothing."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def indexed_dataset():
    """The module alone: the packages around it would import torch."""
    root = list(importlib.util.find_spec("megatron").submodule_search_locations)[0]
    torch, utils, data = Anything("torch"), Anything("torch.utils"), Anything("torch.utils.data")
    torch.utils, utils.data = utils, data
    sys.modules.update({module.__name__: module for module in (torch, utils, data)})
    for name, folder in (("megatron.core", "core"), ("megatron.core.datasets", "core/datasets")):
        package = types.ModuleType(name)
        package.__path__ = [f"{root}/{folder}"]
        sys.modules[name] = package
    core_utils = types.ModuleType("megatron.core.utils")
    core_utils.log_single_rank = lambda *positional, **named: None
    storage = Anything("megatron.core.datasets.object_storage_utils")
    storage.is_object_storage_path = lambda path: False
    features = types.ModuleType("megatron.core.msc_utils")
    features.MultiStorageClientFeature = type("Off", (), {"is_enabled": staticmethod(lambda: False)})
    sys.modules.update({module.__name__: module for module in (core_utils, storage, features)})
    from megatron.core.datasets import indexed_dataset
    return indexed_dataset


def main():
    documents_path, shard, out = sys.argv[1:]
    with open(documents_path, encoding="utf-8") as file:
        documents = json.load(file)
    megatron = indexed_dataset()
    dataset = megatron.IndexedDataset(shard, mmap=True)
    sentences = [sentence for document in documents for sentence in document]
    borders = numpy.cumsum([0] + [len(document) for document in documents])
    if len(dataset) != len(sentences) or dataset.document_indices.tolist() != borders.tolist():
        sys.exit(f"{len(dataset)} sentences, borders {dataset.document_indices}: expected {len(sentences)}, {borders}")
    for idx, sentence in enumerate(sentences):
        if dataset[idx].tolist() != sentence:
            sys.exit(f"sentence {idx}: {dataset[idx]}, expected {sentence}")
    for name, dtype in (("u16", numpy.uint16), ("i32", numpy.int32)):
        builder = megatron.IndexedDatasetBuilder(f"{out}-{name}.bin", dtype=dtype)
        for document in documents:
            builder.add_document([token for sentence in document for token in sentence], [len(s) for s in document])
        builder.finalize(f"{out}-{name}.idx")
    print(f"{len(sentences)} sentences in {len(documents)} documents equal")


if __name__ == "__main__":
    main()
