#!/usr/bin/env python3
"""PyTorch's linear layers, timed as `quern bench-kernels` times our products: run both, one after
the other, on the same GPU.

    quern bench-kernels --family fused_gemm --variant gelu --sizes 4096x4096 --rows 128 --json
    quern bench-kernels --family gemm_wna16 --sizes 4096x4096 --rows 1,16,128 --json
    python3 bench/rivals/products.py --sizes 4096x4096 --rows 1,16,128

Prints one JSON object a line: op, rows, n, k, eager_us and, where there is something to fuse,
compile_us, with their spreads; the definition of these times is row.py's, which is ours. launched_us
is what a call takes where Python launches each kernel, as without graphs.

    linear      x[rows, k] · w[n, k]ᵀ in bf16
    gelu, silu  of the linear layer
    swiglu      silu(gate) * up of a linear layer that computes both
    int4        _weight_int4pack_mm: bf16 by 4 bits, group 128
    int8        _int_mm, int8 by int8 to int32, without scales; more than 16 rows
    fp8         _scaled_mm, e4m3 by e4m3, a scale for each tensor, fast accumulation
    fp8_row     the same with a scale for each row of x and of w
    copy        of n x k codes of 4 bits, whatever rows says: what bringing codes to another order costs
"""
import argparse
import json
import time

import torch
import torch.nn.functional as F

from row import chosen, measure, num_sets

GROUP = 128


def bf16(*shape):
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def dense(rows, n, k):
    return [bf16(rows, k), bf16(n, k)]


def int4(rows, n, k):
    codes = torch.randint(0, 255, (n, k // 2), dtype=torch.uint8, device="cuda")
    packed = torch.ops.aten._convert_weight_to_int4pack(codes, 8)
    return [bf16(rows, k), packed, bf16(k // GROUP, n, 2)]


def int8(rows, n, k):
    def codes(*shape):
        return torch.randint(-127, 127, shape, dtype=torch.int8, device="cuda")
    return [codes(rows, k), codes(n, k)]


def fp8(rows, n, k):
    one = torch.ones((), device="cuda")
    return [bf16(rows, k).to(torch.float8_e4m3fn), bf16(n, k).to(torch.float8_e4m3fn), one, one]


def fp8_row(rows, n, k):
    x, w, _, _ = fp8(rows, n, k)
    return [x, w, torch.ones(rows, 1, device="cuda"), torch.ones(1, n, device="cuda")]


def two_of_codes(rows, n, k):
    return [torch.zeros(n * k // 2, dtype=torch.uint8, device="cuda") for _ in range(2)]


def swiglu(x, w):
    gate, up = F.linear(x, w).chunk(2, dim=-1)
    return F.silu(gate) * up


def scaled(x, w, x_scale, w_scale):
    return torch._scaled_mm(x, w.t(), scale_a=x_scale, scale_b=w_scale,
                            out_dtype=torch.bfloat16, use_fast_accum=True)


# name: operands of (rows, n, k), function of them, whether there is something to fuse
OPS = {
    "linear": (dense, F.linear, False),
    "gelu": (dense, lambda x, w: F.gelu(F.linear(x, w)), True),
    "silu": (dense, lambda x, w: F.silu(F.linear(x, w)), True),
    "swiglu": (dense, swiglu, True),
    "int4": (int4, lambda x, w, s: torch.ops.aten._weight_int4pack_mm(x, w, GROUP, s), False),
    "int8": (int8, lambda x, w: torch._int_mm(x, w.t()), False),
    "fp8": (fp8, scaled, False),
    "fp8_row": (fp8_row, scaled, False),
    "copy": (two_of_codes, lambda source, target: target.copy_(source), False),
}


def launched_us(function, sets, calls=200):
    """Microseconds a call, one after the other."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for i in range(calls):
        function(*sets[i % len(sets)])
    torch.cuda.synchronize()
    return 1e6 * (time.perf_counter() - start) / calls


def bench(name, rows, n, k):
    make, function, fuses = OPS[name]
    sizes = [t.numel() * t.element_size() for t in make(rows, n, k)]
    sets = [make(rows, n, k) for _ in range(num_sets(sizes + [rows * n * 2]))]
    out = {"op": name, "rows": rows, "n": n, "k": k}
    with torch.no_grad():
        out["eager_us"], out["eager_spread_us"] = measure(lambda s: function(*s), sets)
        out["launched_us"] = launched_us(function, sets)
        if fuses:
            torch._dynamo.reset()
            compiled = torch.compile(function, dynamic=False, mode="max-autotune-no-cudagraphs")
            out["compile_us"], out["compile_spread_us"] = measure(lambda s: compiled(*s), sets)
    del sets
    torch.cuda.empty_cache()
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ops", default=",".join(OPS))
    parser.add_argument("--sizes", default="4096x4096", help="n x k")
    parser.add_argument("--rows", default="1,16,128")
    options = parser.parse_args()
    for name in chosen(options.ops, OPS):
        for size in options.sizes.split(","):
            n, k = map(int, size.split("x"))
            for rows in map(int, options.rows.split(",")):
                if name == "int8" and rows <= 16:
                    continue
                print(json.dumps(bench(name, rows, n, k)), flush=True)


if __name__ == "__main__":
    main()
