"""Prints the golden values of bert-random from an independent transcription of its definitions.

Run: python3 golden.py. Needs Python 3.8 or newer and nothing else. The printed lines are pasted into the
unit tests of src/key.rs, src/stream/tests.rs, src/permutation.rs and src/normal.rs.
"""
from statistics import NormalDist

M32, M64 = 2**32 - 1, 2**64 - 1


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & M32, (p0 >> 32) ^ c[3] ^ k[1], p0 & M32]
        k = [(k[0] + 0x9E3779B9) & M32, (k[1] + 0xBB67AE85) & M32]
    return c


assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
MASK, ORDER = 6, 4


def root(seed, tag):
    return philox([seed & M32, seed >> 32, tag, 1], [int.from_bytes(b"bert", "big"), int.from_bytes(b"-key", "big")])


def block(key, domain, counter):
    return philox([counter & M32, counter >> 32, key[0], key[1]], [key[2] ^ int.from_bytes(domain, "big"), key[3]])


def child(key, part):
    return block(key, b"part", part)


def named(key, name):
    raw = name.encode()
    key = block(key, b"name", len(raw))
    for i in range(0, len(raw), 8):
        key = block(key, b"name", int.from_bytes(raw[i : i + 8], "little"))
    return key


class Stream:
    def __init__(self, key):
        self.words = (word for i in range(2**64) for word in block(key, b"strm", i))

    def u64(self):
        return next(self.words) | next(self.words) << 32

    def below(self, n):
        while True:
            product = self.u64() * n
            if product & M64 >= 2**64 % n:
                return product >> 64

    def normal(self):
        return NormalDist().inv_cdf(((self.u64() >> 11) + 0.5) / 2**53)


def mix(value, key):
    z = (value * 0x9E3779B97F4A7C15 + key) & M64
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & M64
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & M64
    return z ^ z >> 31


def order(length, key, num):
    half = ((length - 1).bit_length() + 1) // 2
    stream = Stream(key)
    keys = [stream.u64() for _ in range(8)]

    def network(value):
        left, right = value >> half, value & (2**half - 1)
        for k in keys:
            left, right = right, left ^ (mix(right, k) & (2**half - 1))
        return left << half | right

    items = []
    for value in range(num):
        value = network(value)
        while value >= length:
            value = network(value)
        items.append(value)
    return items


def words(values):
    return "[" + ", ".join(f"0x{v >> 16:04x}_{v & 0xFFFF:04x}" for v in values) + "]"


key = root(42, MASK)
print("GOLDEN_ROOT", words(key))
print("GOLDEN_CHILD", words(child(child(key, 3), 1 << 40)))
print("GOLDEN_NAME", words(named(key, "bert.embeddings.word_embeddings.weight")))
bits = block(key, b"bits", 0)
print("GOLDEN_BITS", "0x" + "_".join(f"{bits[1] << 32 | bits[0]:016x}"[i : i + 4] for i in range(0, 16, 4)))
key = child(key, 3)
stream = Stream(key)
print("GOLDEN_WORDS", words([next(stream.words) for _ in range(6)]))
stream = Stream(key)
print("GOLDEN_BELOW", [stream.below(30_522) for _ in range(6)])
print("GOLDEN_UNIT", (stream.u64() >> 11) / 2**53)
print("GOLDEN_NORMAL", [stream.normal() for _ in range(4)])
items = list(range(8))
for last in range(7, 0, -1):
    other = stream.below(last + 1)
    items[last], items[other] = items[other], items[last]
print("GOLDEN_SHUFFLE", items)
print("GOLDEN_ORDER", order(1_000_003, child(root(42, ORDER), 3), 5))
for p in [1e-300, 1e-16, 1e-9, 0.001, 0.0228, 0.0749, 0.0751, 0.3, 0.5, 0.51, 0.9249, 0.9251, 0.99, 0.9999999]:
    print("PYTHON", (p, NormalDist().inv_cdf(p)))
