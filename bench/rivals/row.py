#!/usr/bin/env python3
"""PyTorch's row-wise operations, timed as `quern bench-kernels` times ours: run both, one after the
other, on the same GPU.

    quern bench-kernels --kernels rmsnorm,add_layernorm,silu_mul,softmax,silu --json > quern.json
    python3 bench/rivals/row.py > torch.jsonl

Prints one JSON object a line: op (the name of our kernel), rows, cols, dtype, bytes, eager_us,
compile_us with their spreads, and copy_bytes_per_second of torch's own copy_ where it moves as many
bytes. The definition of a time is autotune/meter.cpp's: CUDA graphs whose nodes go round enough sets
of operands that the other sets exceed twice the L2 (at most 256 sets and 8 GiB), with enough whole
rounds for a replay to last 250 us; a sample is the mean over one replay; median and half of the
interquartile range of 33 samples. Outputs have memory of their own in every set, as ours do.
"""
import argparse
import json
import math
import statistics
import sys

import torch
import torch.nn.functional as F

GUARD_BYTES, ALIGNMENT = 4096, 256  # autotune/gate.cpp, OperandSet
MAX_SETS, REPLAY_US, MAX_NODES, MAX_MEMORY = 256, 250.0, 2048, 8 << 30  # autotune/meter.cpp
SAMPLES = 33
EPS = 1e-5


def rmsnorm(x, weight):
    return F.rms_norm(x, (x.shape[-1],), weight, EPS)


def layernorm_of_sum(x, residual, weight, bias):
    residual.add_(x)
    return F.layer_norm(residual, (x.shape[-1],), weight, bias, EPS)


def silu_mul(gate_up):
    return F.silu(gate_up[:, 0]) * gate_up[:, 1]


# name: function of the inputs, shapes of the inputs, which of them are also written
OPS = {
    "rmsnorm": (rmsnorm, lambda r, c: [(r, c), (c,)], ()),
    "add_layernorm": (layernorm_of_sum, lambda r, c: [(r, c), (r, c), (c,), (c,)], (1,)),
    "silu_mul": (silu_mul, lambda r, c: [(r, 2, c)], ()),
    "softmax": (lambda x: torch.softmax(x, -1), lambda r, c: [(r, c)], ()),
    "silu": (F.silu, lambda r, c: [(r, c)], ()),
}


def num_sets(sizes):
    """Sets of operands, of `sizes` bytes each, that the nodes of a graph go round."""
    aligned = sum(math.ceil(size / ALIGNMENT) * ALIGNMENT + GUARD_BYTES for size in sizes)
    set_bytes = GUARD_BYTES + aligned
    cold = 2 * torch.cuda.get_device_properties(0).L2_cache_size // set_bytes + 1
    affordable = min(torch.cuda.mem_get_info()[0] // 2, MAX_MEMORY) // set_bytes
    return max(1, min(cold, MAX_SETS, 1 + affordable))


def capture(run, sets, num_nodes):
    """run(operands) once a node. What it returns stays alive, so that no two sets share it."""
    graph = torch.cuda.CUDAGraph()
    outputs = [None] * len(sets)
    with torch.cuda.graph(graph):
        for node in range(num_nodes):
            outputs[node % len(sets)] = run(sets[node % len(sets)])
    return graph, outputs


def replay_us(graph, count):
    """Times of `count` replays, enqueued at once behind one that is not counted."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    graph.replay()
    events[0].record()
    for event in events[1:]:
        graph.replay()
        event.record()
    torch.cuda.synchronize()
    return [1000 * a.elapsed_time(b) for a, b in zip(events, events[1:])]


def measure(run, sets):
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # compiles, picks algorithms
        for _ in range(3):
            run(sets[0])
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    nodes = len(sets)
    graph, outputs = capture(run, sets, nodes)
    once = replay_us(graph, 1)[0]
    rounds = min(max(1, math.ceil(REPLAY_US / max(once, 1e-3))), max(1, MAX_NODES // len(sets)))
    if rounds > 1:
        del graph, outputs
        nodes = rounds * len(sets)
        graph, outputs = capture(run, sets, nodes)
    samples = [us / nodes for us in replay_us(graph, SAMPLES)]
    quarters = statistics.quantiles(samples, n=4)
    return statistics.median(samples), (quarters[2] - quarters[0]) / 2


def copy_bandwidth(num_bytes):
    """Bytes read and written a second by copy_ where it moves `num_bytes` in all."""
    half = max(16, int(num_bytes) // 2)
    count = num_sets([half, half])
    sets = [[torch.randint(0, 255, (half,), dtype=torch.uint8, device="cuda"),
             torch.empty(half, dtype=torch.uint8, device="cuda")] for _ in range(count)]
    return 2 * half / (measure(lambda s: s[1].copy_(s[0]), sets)[0] * 1e-6)


def bench(name, rows, cols, dtype):
    function, shapes, written = OPS[name]
    element = torch.finfo(dtype).bits // 8
    sizes = [math.prod(shape) * element for shape in shapes(rows, cols)]
    out_bytes = rows * cols * element
    sets = []
    for _ in range(num_sets(sizes + [out_bytes])):
        inputs = [torch.randn(shape, device="cuda").to(dtype) for shape in shapes(rows, cols)]
        sets.append(inputs + [torch.empty(rows, cols, dtype=dtype, device="cuda")])

    def into(*operands):  # Inductor writes the output in place: no copy is left of this
        operands[-1].copy_(function(*operands[:-1]))

    torch._dynamo.reset()
    compiled = torch.compile(into, dynamic=False)
    total = sum(sizes) + sum(sizes[i] for i in written) + out_bytes
    with torch.no_grad():
        eager_us, eager_spread = measure(lambda s: function(*s[:-1]), sets)
        torch.cuda.empty_cache()
        compile_us, compile_spread = measure(lambda s: compiled(*s), sets)
        del sets
        torch.cuda.empty_cache()
        copy = copy_bandwidth(total)
    torch.cuda.empty_cache()
    return {"op": name, "rows": rows, "cols": cols, "dtype": str(dtype).split(".")[-1],
            "bytes": total, "eager_us": eager_us, "eager_spread_us": eager_spread,
            "compile_us": compile_us, "compile_spread_us": compile_spread,
            "copy_bytes_per_second": copy}


def chosen(names, ops):
    """Prints what it runs on, and goes through those of `ops` that `names` lists."""
    if not torch.cuda.is_available():
        sys.exit("there is no GPU that PyTorch can use")
    print(json.dumps({"device": torch.cuda.get_device_name(), "torch": torch.__version__}),
          flush=True)
    for name in names.split(","):
        if name not in ops:
            sys.exit(f"'{name}' is none of {', '.join(ops)}")
        yield name


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ops", default=",".join(OPS))
    parser.add_argument("--shapes", default="32x4096,4096x4096,65536x4096,32x8192,4096x8192")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    options = parser.parse_args()
    for name in chosen(options.ops, OPS):
        for shape in options.shapes.split(","):
            rows, cols = map(int, shape.split("x"))
            print(json.dumps(bench(name, rows, cols, getattr(torch, options.dtype))), flush=True)


if __name__ == "__main__":
    main()
