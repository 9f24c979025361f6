#!/opt/powerpixels/bin/python
"""What SpikeInterface's images of MATLAB's sorters hold is one compiled program, called with a folder: ops.mat in,
Phy's files out. This stand-in takes crossings of a threshold, one unit for each channel."""

import sys
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from scipy.signal import find_peaks

folder = Path(sys.argv[1])
ops = loadmat(folder / "ops.mat", simplify_cells=True)["ops"]
traces = np.fromfile(ops["fbinary"], np.int16).reshape(-1, int(ops["Nchan"])).astype(np.float32)
noise = np.median(np.abs(traces), axis=0) / 0.6745
deepest = (-traces / noise).max(axis=1)
times, _ = find_peaks(deepest, height=8, distance=15)
np.save(folder / "spike_times.npy", times[:, None].astype(np.uint64))
channels = np.argmin(traces[times] / noise, axis=1)
for name in ("templates", "clusters"):
    np.save(folder / f"spike_{name}.npy", channels[:, None].astype(np.uint32))
np.save(folder / "channel_map.npy", np.arange(int(ops["Nchan"]))[:, None].astype(np.uint32))
lines = [f"{channel}\tgood" for channel in np.unique(channels)]
(folder / "cluster_KSLabel.tsv").write_text("\n".join(["cluster_id\tKSLabel", *lines]) + "\n")
(folder / "params.py").write_text(f"dat_path = {ops['fbinary']!r}\nsample_rate = {ops['fs']}\n")
print("correction", ops["do_correction"], "reference", ops["CAR"])
