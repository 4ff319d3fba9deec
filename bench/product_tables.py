#!/usr/bin/env python3
"""Markdown tables of what `quern bench-kernels --family ... --json` printed.

    python3 bench/product_tables.py bf16.json w4a16.json ... > tables.md

One table a file: time, rate, share of the roof, time over that of a kernel which only reads as many
bytes, and how many times as fast as the rivals, which took turns with ours.
"""
import json
import sys

TITLES = {
    "bf16": "bf16 x bf16", "w4a16": "W4A16, group 128", "w8a16": "W8A16, group 128",
    "w4a16-zero-points": "W4A16 with zero points, group 128",
    "int8": "W8A8 INT8, per token x per channel", "fp8": "W8A8 FP8, per tensor",
    "fp8-token": "W8A8 FP8, per token x per channel",
    "fp8-block": "W8A8 FP8, 1x128 x 128x128 blocks",
    "swiglu": "bf16 with SwiGLU", "gelu": "bf16 with GELU", "silu": "bf16 with SiLU",
    "add": "bf16 with addition to the residual stream",
    "w4a16-swiglu": "W4A16, group 128, with SwiGLU",
    "w4a16-add": "W4A16, group 128, with addition to the residual stream",
    "w4a16-rmsnorm": "W4A16, group 128, of RMSNorm",
    "w4a16-rmsnorm-swiglu": "W4A16, group 128, of RMSNorm, with SwiGLU",
    "awq": "Codes of AWQ to kernel order", "gptq": "Codes of GPTQ to kernel order",
    "gptq-act-order": "Codes of GPTQ with act-order to kernel order",
    "rmsnorm": "bf16 of RMSNorm", "rmsnorm-swiglu": "bf16 of RMSNorm, with SwiGLU",
}
PEAK_TFLOPS = {"e4m3": 1979, "i8": 1979}  # dense, of an H200; 989.5 for 16 bits


def times(rival, own):
    return f"{rival['median_us']:.2f} | {rival['median_us'] / own:.3f}" if rival else "- | -"


def short(config):
    return " ".join(f"{k}={str(v).lower() if isinstance(v, bool) else v}"
                    for k, v in config.items() if v not in (0, False))


def roof_share(result, bytes_per_second):
    peak = PEAK_TFLOPS.get(result["problem"].get("dtype"), 989.5) * 1e12
    least = max(result["bytes"] / bytes_per_second, result["flops"] / peak)
    return 100e6 * least / result["median_us"]


def table(report):
    rows = report["results"]
    rivals = [(key, title) for key, title in
              (("cublaslt", "cuBLASLt"), ("cublaslt_quick", "cuBLASLt, unscaled or unpromoted"),
               ("cublaslt_dense", "cuBLASLt bf16"), ("alone", "the product alone"))
              if any(key in r for r in rows)
              and not (key == "cublaslt_dense" and report["variant"] == "bf16")]
    head = ["product", "rows", "us", "+-", "TB/s", "TFLOP/s", "% of roof", "of reading"]
    for _, title in rivals:
        head += [f"{title} us", "its time / ours"]
    print("| " + " | ".join(head + ["config"]) + " |")
    print("|---" * (len(head) + 1) + "|")
    for r in rows:
        own = r["median_us"]
        cells = [r["name"], str(r["problem"].get("m", "-")), f"{own:.2f}", f"{r['spread_us']:.2f}",
                 f"{r['bytes'] / own * 1e-6:.2f}", f"{r['flops'] / own * 1e-6:.0f}",
                 f"{roof_share(r, report['read_roof_bytes_per_second']):.0f}",
                 f"{own / r['read_us']:.3f}"]
        cells += [times(r.get(key), own) for key, _ in rivals]
        print("| " + " | ".join(cells + [short(r["config"])]) + " |")


def tuning_table(reports):
    print("\n## Tuning\n\n| variant | products | s |\n|---|---|---|")
    for r in reports:
        print(f"| {TITLES.get(r['variant'], r['variant'])} | {len(r['results'])} |"
              f" {r['tune_seconds']:.1f} |")


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    reports = []
    for path in sys.argv[1:]:
        with open(path) as file:
            reports.append(json.load(file))
        print(f"\n## {TITLES.get(reports[-1]['variant'], reports[-1]['variant'])}\n")
        table(reports[-1])
    tuning_table(reports)


if __name__ == "__main__":
    main()
