#!/usr/bin/env python3
"""UnitRefine's accuracy on recordings that its models did not see: trained on ten, tested on the eleventh.

    .venv/bin/python benchmarks/unitrefine.py

Of the 11 curated recordings that UnitRefine published (5,121 units; shared/data/real/UnitRefine, where the
tests find it), each is held out once. The models are forests of 40 trees on the metrics that need no
principal components; labels come the way of LABEL, through powerpixels.unitrefine.

Measured: results/unitrefine.md.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))


def main() -> None:
    """Print both accuracies of each held-out recording and of all."""
    import test_unitrefine as curated
    from powerpixels import unitrefine

    tables = curated.judged(curated.recordings())
    right, counted = [0, 0], [0, 0]
    print("recording        units   noise or neuron   single or multi")
    for held_out, table in tables.items():
        with tempfile.TemporaryDirectory() as folder:
            models = curated.trained(tables, held_out, Path(folder))
            found, _ = unitrefine.label(curated.Metrics(table), models)
        noise = (found["unitrefine"] == "noise") == (table["is_noise"] == 1)
        neurons = (found["unitrefine"] != "noise") & (table["is_noise"] == 0)
        single = ((found["unitrefine"] == "good") == (table["is_sua"] == 1))[neurons]
        print(f"{held_out:16} {len(table):5} {noise.mean():17.3f} {single.mean():17.3f}", flush=True)
        for k, verdicts in enumerate((noise, single)):
            right[k] += int(verdicts.sum())
            counted[k] += len(verdicts)
    print(f"all              {counted[0]:5} {right[0] / counted[0]:17.3f} {right[1] / counted[1]:17.3f}")


if __name__ == "__main__":
    main()
