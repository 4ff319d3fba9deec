#!/usr/bin/env python3
"""How far two tunes of the same problems agree: flips of the chosen config, and what they cost.

    quern tune MODEL --json > a.json      # twice, from empty caches
    bench/compare_tunes.py a.json b.json [exhaustive.json]

A flip is a problem for which the tunes chose different configs. Where two times are compared, they are
the winners' own medians from their tunes. With a third file, of a tune with `--search exhaustive`, the
first two are also compared with the best there is.
"""
import json
import sys


def records(path):
    with open(path) as file:
        document = json.load(file)
    return {
        (r["family"], json.dumps(r["problem"], sort_keys=True)): r
        for r in document["records"]
        if "median_us" in r
    }


def compare(name_a, a, name_b, b):
    ratios, flips = [], []
    for key in sorted(a.keys() & b.keys()):
        ratio = b[key]["median_us"] / a[key]["median_us"]
        ratios.append((max(ratio, 1 / ratio) - 1, ratio, key))
        if a[key]["config"] != b[key]["config"]:
            flips.append((ratio, key))
    ratios.sort(reverse=True)
    within = sum(1 for off, _, _ in ratios if off < 0.02)
    print(f"{name_a} and {name_b}: {len(ratios)} problems in both, {len(flips)} flips "
          f"({100 * len(flips) / max(1, len(ratios)):.0f}%), {within} times within 2%")
    for off, ratio, (family, problem) in ratios[:8]:
        flip = "flip" if any(key == (family, problem) for _, key in flips) else "same config"
        text = " ".join(f"{k}={v}" for k, v in json.loads(problem).items())
        print(f"  {ratio:6.3f}  {flip:11}  {family} {text}")
    return ratios


def main():
    paths = sys.argv[1:]
    if len(paths) not in (2, 3):
        sys.exit(__doc__)
    loaded = [records(path) for path in paths]
    compare(paths[0], loaded[0], paths[1], loaded[1])
    for i in range(2 if len(paths) == 3 else 0):
        ratios = compare(paths[2], loaded[2], paths[i], loaded[i])
        within = sum(1 for _, ratio, _ in ratios if ratio <= 1.03)
        print(f"  {within} of {len(ratios)} end within 3% of the exhaustive best or below it")


if __name__ == "__main__":
    main()
