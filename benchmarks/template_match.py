#!/usr/bin/env python3
"""How much faster the fused template match is than Kilosort's own on the CPU, side by side in one run.

    .venv/bin/python benchmarks/template_match.py [CHANNELS] [THREADS]

Alternates the two on one batch (2 s at 30 kHz) of noise with spikes and prints the median ratio of times.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from test_template_match import STOCK, problem, template_match

BATCH_SAMPLES = 60_000 + 2 * 61
ROUNDS = 7


def seconds(function, arguments) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    function(*arguments, device=torch.device("cpu"))
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    n_channels = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    torch.set_num_threads(threads)
    arguments = problem(n_channels, BATCH_SAMPLES, n_near2=100, seed=1)
    seconds(template_match.template_match, arguments)  # compiles
    pairs = [
        (seconds(STOCK, arguments), seconds(template_match.template_match, arguments)) for _ in range(ROUNDS)
    ]
    ratios = [stock / fused for stock, fused in pairs]
    print(f"{n_channels} channels, {arguments[2].shape[1]} centres, {threads} threads, {ROUNDS} rounds")
    print(
        f"Kilosort's own takes {statistics.median(ratios):.1f} times as long "
        f"({min(ratios):.1f} to {max(ratios):.1f})"
    )


if __name__ == "__main__":
    main()
