#!/usr/bin/env python3
"""Simulate a session, run the whole pipeline on it, and compare its units with the known spikes.

What is done already is skipped: the simulation by its truth file, the pipeline's tasks by -resume.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"


def main() -> int:
    """Run the demonstration and print where the results are; returns the exit status."""
    from powerpixels.simulate import SimulationConfig, Truth, score_alf, simulate_session

    session = DEMO / "session"
    if (session / "truth" / "truth.json").exists():
        print(f"The simulated session is there already: {session}")
    else:
        print(f"Simulating a session into {session} (about a minute) ...", flush=True)
        simulate_session(session, SimulationConfig.demo())
    # In the demo's folder, so that Nextflow's own files stay out of the project.
    run = subprocess.run(
        [ROOT / ".engines" / "nextflow", "run", ROOT / "main.nf", "-profile", "local,test", "-resume"]
        + ["--input", session / "samplesheet.csv", "--outdir", DEMO / "results"],
        cwd=DEMO,
    )
    if run.returncode:
        return run.returncode

    truth = Truth.load(session)
    print("\nWell-isolated simulated units and what was found of them:\n")
    for probe in [known.name for known in truth.document.probes]:
        (alf,) = (DEMO / "results").glob(f"*/*/*/alf/{probe}")
        scores = score_alf(session, alf, probe)
        print(f"{probe}\n{scores.to_string(index=False, float_format='{:.3f}'.format)}")
        print(
            f"{probe}: {len(scores)} units, median recall {scores.recall.median():.3f}, "
            f"median precision {scores.precision.median():.3f}\n"
        )
    print(f"The results are in {DEMO / 'results'}; summary.csv there has one line a probe.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
