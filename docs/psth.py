#!/usr/bin/env python3
"""Example: the mean firing rate of each unit around an event.

    python docs/psth.py results/mouse01/2026-03-01/001 probe00 lick OUT [LABEL]

The event is the name of a digital line in the wiring file, or of one without a name there, as
_nidq_port0line1; its rising edges are taken. LABEL says whose word
chooses the units (all, consensus, bombcell, ...; all where left out). Writes OUT/psth.csv (a row a unit:
cluster_id, then the rate in spikes/s for each bin, named by its middle in seconds from the event) and
OUT/psth.png.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("agg")
import matplotlib.pyplot as plt
from powerpixels import load_neural_data


def rates(times: np.ndarray, events: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Mean rate (spikes/s) in each bin between edges (s from the event); times, events: s, one clock."""
    relative = np.concatenate([times - event for event in events])
    return np.histogram(relative, edges)[0] / (len(events) * np.diff(edges))


def main(session: Path, probe: str, event: str, out: Path, label: str = "all") -> None:
    """Write the rates and draw them."""
    spikes, clusters, _ = load_neural_data(session, probe, keep_units=label)
    pulses = session / "alf" / "pulses"
    known = sorted(path.name.removesuffix(".intervals.npy") for path in pulses.glob("*.intervals.npy"))
    if event not in known:
        sys.exit(f"{pulses}: expected the event {event}, found {', '.join(known) or 'none'}; name one")
    onsets = np.load(pulses / f"{event}.intervals.npy")[:, 0]
    edges = np.arange(-50, 101) / 100
    middles = (edges[:-1] + edges[1:]) / 2
    found = {
        unit: rates(spikes["times"][spikes["clusters"] == unit], onsets, edges)
        for unit in clusters["cluster_id"]
    }
    table = pd.DataFrame.from_dict(found, orient="index", columns=[f"{middle:.3f}" for middle in middles])
    out.mkdir(parents=True, exist_ok=True)
    table.rename_axis("cluster_id").to_csv(out / "psth.csv")
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for unit, rate in found.items():
        axis.plot(middles, rate, label=f"unit {unit}", linewidth=1)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(
        xlabel=f"time from {event} (s)", ylabel="rate (spikes/s)", title=f"{probe}, {len(onsets)} events"
    )
    if found:
        axis.legend(fontsize="small", ncols=2)
    figure.savefig(out / "psth.png", dpi=120)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]), *sys.argv[5:6])
