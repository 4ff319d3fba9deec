#!/usr/bin/env python3
"""The record of a run of product benchmarks: one JSON of all numbers, and Markdown to read.

    python3 bench/product_record.py --about about.json --to bench/records/h200/DATE-products RUN/*.json[l]

about.json says what the files cannot: {"date", "commit", "driver", "cuda", "host", "notes": [text],
"tests": [{"test", "commit", "result"}]}. The files are what `quern bench-kernels --family ... --json`
printed (with --sizes: of a square layer, held against PyTorch's) and what bench/rivals/products.py
printed (.jsonl); one with a "commit" of its own is of an earlier run, which its title then says.
Without files the Markdown is made again from the record's JSON.
"""
import argparse
import contextlib
import json

from product_tables import TITLES, table, tuning_table

REPACK = ("awq", "gptq", "gptq-act-order")
NAMES = ("qkv", "o", "gate_up", "down", "lm_head")
BF16, QUICK = "cublaslt_dense", "cublaslt_quick"


def slower(key):
    """Our time over the other's."""
    def ratio(r):
        other = r["read_us"] if key == "read" else r[key]["median_us"] if key in r else None
        return other and r["median_us"] / other
    return ratio


def faster(key):
    """The other's time over ours."""
    return lambda r: r[key]["median_us"] / r["median_us"] if key in r else None


ALONE = slower("alone")
# What was wanted of it: variant, rows, text, the bound, and the ratio of a product; a variant of ours
# in place of a ratio is what it is held against.
WANTED = [
    ("bf16", (1,), "time of reading", "1.10 at most", slower("read")),
    ("w4a16", (1,), "time of reading", "1.10 at most", slower("read")),
    ("w4a16", (1,), "times as fast as cuBLASLt bf16", "3.0; 2.5 qkv, o", faster(BF16)),
    ("w4a16", (16,), "times as fast as cuBLASLt bf16", "2.8; 2.3 qkv, o", faster(BF16)),
    ("w4a16", (64,), "times as fast as cuBLASLt bf16", "1.5", faster(BF16)),
    ("w4a16", (256,), "times as fast as cuBLASLt bf16", "1.0", faster(BF16)),
    ("w4a16", (2048, 8192), "times as fast as cuBLASLt bf16", "0.90", faster(BF16)),
    ("bf16", (2048, 8192), "own kernels, times as fast as cuBLASLt", "0.95", faster("cublaslt")),
    ("int8", (2048, 8192), "times as fast as cuBLASLt's s32", "0.95", faster(QUICK)),
    ("fp8", (2048, 8192), "times as fast as cuBLASLt's fast mode", "0.95", faster(QUICK)),
    ("fp8-token", (2048, 8192), "times as fast as cuBLASLt's fast mode", "", faster(QUICK)),
    ("fp8-block", (2048, 8192), "times as fast as our own per tensor", "0.85", "fp8"),
    ("swiglu", (1, 16, 64, 512, 2048), "time of the product alone", "1.02 at most", ALONE),
]
WANTED += [(variant, rows, "time of the product alone", "", ALONE)
           for variants, rows in ((("w4a16-swiglu", "w4a16-add", "add"), (1, 4, 16, 64)),
                                  (("w4a16-rmsnorm", "w4a16-rmsnorm-swiglu", "rmsnorm",
                                    "rmsnorm-swiglu"), (1, 4)))
           for variant in variants]


def wanted_table(variants):
    def results(variant, rows):
        return {r["name"]: r for r in variants.get(variant, {}).get("results", [])
                if r["problem"].get("m") == rows}
    print("| | rows | | wanted |", " | ".join(NAMES), "|\n|" + "---|" * (4 + len(NAMES)))
    for variant, all_rows, text, bound, ratio in WANTED:
        for rows in all_rows:
            own = results(variant, rows)
            if not own:
                continue
            if isinstance(ratio, str):
                other = results(ratio, rows)
                values = {n: other[n]["median_us"] / r["median_us"] for n, r in own.items()
                          if n in other}
            else:
                values = {n: ratio(r) for n, r in own.items()}
            cells = [f"{values[n]:.2f}" if values.get(n) else "" for n in NAMES]
            print(f"| {TITLES[variant]} | {rows} | {text} | {bound} | " + " | ".join(cells) + " |")


# Rows of the comparison with PyTorch: title, our variant, PyTorch's op, rows.
PYTORCH = [("matmul + GELU", "gelu", "gelu", (128,)), ("matmul + SiLU", "silu", "silu", (128,)),
           ("linear, bf16", "bf16", "linear", (128,)),
           ("INT4 (W4A16) against bf16 linear", "w4a16", "linear", (1, 16, 128)),
           ("INT4 (W4A16) against PyTorch's int4", "w4a16", "int4", (1, 16, 128)),
           ("INT8 (W8A8) against bf16 linear", "int8", "linear", (1, 128)),
           ("INT8 (W8A8) against PyTorch's int8", "int8", "int8", (128,)),
           ("FP8 (W8A8) against PyTorch's fp8", "fp8", "fp8", (1, 16, 128))]


def pytorch_table(square, lines):
    theirs = {(r["op"], r["rows"]): r for r in lines if "op" in r}
    print("| 4096 x 4096 | rows | us | PyTorch, as graphs | torch.compile, as graphs | "
          "PyTorch, launched by Python | times as fast |\n|" + "---|" * 7)
    for title, variant, op, all_rows in PYTORCH:
        for rows in all_rows:
            own = [r for r in square.get(variant, []) if r["problem"]["m"] == rows]
            other = theirs.get((op, rows))
            if not own or not other:
                continue
            us = own[0]["median_us"]
            times = [other.get(k) for k in ("eager_us", "compile_us", "launched_us")]
            print(f"| {title} | {rows} | {us:.2f} | "
                  + " | ".join(f"{t:.2f}" if t else "" for t in times) + " | "
                  + ", ".join(f"{t / us:.2f}" for t in times if t) + " |")


def repack_table(variants, lines):
    sizes = {(r["problem"]["n"], r["problem"]["k"]): r["name"]
             for r in variants[REPACK[0]]["results"]}
    copies = {sizes[r["n"], r["k"]]: r["eager_us"] for r in lines
              if r.get("op") == "copy" and (r["n"], r["k"]) in sizes}
    print("| product | copy us | TB/s |", " | ".join(f"{v} us | TB/s | of copy" for v in REPACK),
          "|\n|" + "---|" * (3 + 3 * len(REPACK)))
    for name in NAMES:
        cells = []
        for v in REPACK:
            r = next(r for r in variants[v]["results"] if r["name"] == name)
            us, size = r["median_us"], r["bytes"]
            of_copy = f"{us / copies[name]:.2f}" if name in copies else "-"
            cells.append(f"{us:.1f} | {size / us * 1e-6:.2f} | {of_copy}")
        copy = (f"{copies[name]:.1f} | {size / copies[name] * 1e-6:.2f}" if name in copies
                else "- | -")
        print(f"| {name} | {copy} | " + " | ".join(cells) + " |")


def heading(title, reports):
    """Of what was measured at other commits than the record's, with those."""
    commits = sorted({r["commit"] for r in reports if "commit" in r})
    print(f"\n## {title}" + (f" (commit {', '.join(commits)})" if commits else "") + "\n")


def markdown(record):
    about, variants = record["about"], record["variants"]
    print(f"# Products of Llama-3-8B's layers on one {record['gpu']}, {about['date']}\n")
    print(f"Driver {about['driver']}, {about['cuda']}, {about['host']}, commit {about['commit']}. One run of\n")
    print("    quern bench-kernels --family gemm|gemm_wna16|gemm_w8a8|fused_gemm|fused_gemm_wna16"
          " --model Llama-3.1-8B-Instruct --variant ... --rows ... --json\n"
          "    python3 bench/rivals/products.py ...\n    python3 bench/product_record.py ...\n")
    for note in about["notes"]:
        print(note + "\n")
    print("## What was wanted\n")
    wanted_table(variants)
    if record["pytorch"]:
        print(f"\n## Against PyTorch {record['pytorch'][0]['torch']}\n")
        pytorch_table(record["square"], record["pytorch"])
    for name, report in variants.items():
        if name not in REPACK:
            heading(TITLES.get(name, name), [report])
            table(report)
    if all(v in variants for v in REPACK):
        heading("Codes of a checkpoint to kernel order, when a model is loaded",
                [variants[v] for v in REPACK])
        repack_table(variants, record["pytorch"])
    tuning_table([r for r in variants.values() if "commit" not in r])
    print("\n## Tests\n\n| test | commit | result |\n|---|---|---|")
    for t in about["tests"]:
        print(f"| {t['test']} | {t['commit']} | {t['result']} |")


def collect(paths):
    record = {"gpu": "", "about": {}, "variants": {}, "square": {}, "pytorch": []}
    for path in paths:
        with open(path) as file:
            if path.endswith(".jsonl"):
                record["pytorch"] += [json.loads(line) for line in file if line.startswith("{")]
                continue
            report = json.load(file)
        record["gpu"] = report.pop("device")
        name = report["variant"]
        if "x" in report["results"][0]["name"]:  # --sizes
            record["square"].setdefault(name, []).extend(report["results"])
        elif name in record["variants"]:
            record["variants"][name]["results"] += report["results"]
            record["variants"][name]["tune_seconds"] += report["tune_seconds"]
        else:
            record["variants"][name] = report
    for report in record["variants"].values():
        report["results"].sort(key=lambda r: r["problem"].get("m", 0))
    variants = record["variants"]  # in the order of TITLES, then what it does not know
    record["variants"] = {v: variants[v] for v in [*TITLES, *variants] if v in variants}
    return record


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--about", help="needed with files")
    parser.add_argument("--to", required=True, help="path of the record without its ending")
    parser.add_argument("files", nargs="*")
    args = parser.parse_args()
    if args.files and not args.about:
        parser.error("files need --about")
    if args.files:
        record = collect(args.files)
    else:
        with open(args.to + ".json") as file:
            record = json.load(file)
    if args.about:
        with open(args.about) as file:
            record["about"] = json.load(file)
    with open(args.to + ".json", "w") as file:
        json.dump(record, file, separators=(",", ":"))
        file.write("\n")
    with open(args.to + ".md", "w") as file, contextlib.redirect_stdout(file):
        markdown(record)


if __name__ == "__main__":
    main()
