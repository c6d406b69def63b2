"""Prints the golden values of bert-kernels from independent formulas.

Run: python3 golden.py. Needs Python 3.8 or newer and nothing else (AdamW is evaluated in exact decimal arithmetic).
The printed lines are pasted into src/dropout/tests.rs, src/adamw/tests.rs and src/lamb/tests.rs.
"""
from decimal import Decimal, getcontext

getcontext().prec = 50
M32, M64 = 2**32 - 1, 2**64 - 1


def dropout_hash(key_bits, index):
    z = (key_bits + (index >> 32) * 0x9E3779B97F4A7C15) & M64
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & M64
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & M64
    z ^= z >> 31
    x = (index & M32) ^ (z & M32)
    x = ((x ^ x >> 17) * 0xED5AD4BB + (z >> 32)) & M32
    x = ((x ^ x >> 11) * 0xAC4C1B51) & M32
    x = ((x ^ x >> 15) * 0x31848BAB) & M32
    return x ^ x >> 14


def adamw(params, grads_by_step, lr, eps, decay, corrected):
    """Adam with decoupled decay, written as in the papers: moments, corrected moments, update."""
    lr, eps, decay = Decimal(lr), Decimal(eps), Decimal(decay)
    beta1, beta2 = Decimal("0.9"), Decimal("0.999")
    out = []
    for k, p in enumerate(params):
        p, m, v = Decimal(p), Decimal(0), Decimal(0)
        for step, grads in enumerate(grads_by_step, start=1):
            g = Decimal(grads[k])
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
            m_hat = m / (1 - beta1**step) if corrected else m
            v_hat = v / (1 - beta2**step) if corrected else v
            p = p - lr * (m_hat / (v_hat.sqrt() + eps) + decay * p)
        out.append(float(p))
    return out


def lamb(params, grads_by_step, lr, eps, decay):
    """apex FusedLAMB for one parameter: corrected Adam plus decay, scaled by |parameter| / |update|."""
    lr, eps, decay = Decimal(lr), Decimal(eps), Decimal(decay)
    beta1, beta2 = Decimal("0.9"), Decimal("0.999")
    p, m, v = [Decimal(x) for x in params], [Decimal(0)] * len(params), [Decimal(0)] * len(params)
    norm = lambda values: sum(x * x for x in values).sqrt()
    for step, grads in enumerate(grads_by_step, start=1):
        g = [Decimal(x) for x in grads]
        m = [beta1 * a + (1 - beta1) * b for a, b in zip(m, g)]
        v = [beta2 * a + (1 - beta2) * b * b for a, b in zip(v, g)]
        u = [a / (1 - beta1**step) / ((b / (1 - beta2**step)).sqrt() + eps) + decay * x for a, b, x in zip(m, v, p)]
        ratio = norm(p) / norm(u)
        p = [x - lr * ratio * y for x, y in zip(p, u)]
    return [float(x) for x in p]


PARAMS = ["0.5", "-0.25", "1.5", "0.0078125"]
GRADS = [["0.125", "-2", "0.0009765625", "0.5"], ["0.25", "1", "-0.001953125", "0.5"], ["-0.5", "0.75", "0.5", "0.5"]]
INDICES = [0, 1, 768, M32, 1 << 32, (1 << 40) + 5]
print("GOLDEN_HASHES", [hex(dropout_hash(0x0123456789ABCDEF, index)) for index in INDICES])
print("GOLDEN_BERT", adamw(PARAMS, GRADS, "0.01", "1e-6", "0.01", corrected=False))
print("GOLDEN_TORCH", adamw(PARAMS, GRADS, "0.01", "1e-8", "0.01", corrected=True))
print("GOLDEN_LAMB", lamb(PARAMS, GRADS, "0.01", "1e-6", "0.01"))
