#!/usr/bin/env python3
"""Example: the local field potential of a probe, cleaned, and with the brain's motion taken out of it.

    python docs/lfp.py results/mouse01/2026-03-01/001 probe00 OUT

Needs a run with --lfp, which gives the LF band of probes of every kind at 2500 Hz. Writes folders that
spikeinterface.load opens, in µV: OUT/lfp_car (1 to 400 Hz, channels' sampling times aligned, each shank's
median taken off) and OUT/lfp_motion_corrected (the same moved back along the shank), with OUT/times.npy,
seconds on the session's clock, and OUT/motion (spikeinterface.core.motion.Motion.load), whose times count
from the first sample.
"""

import sys
from pathlib import Path

import numpy as np
import spikeinterface.preprocessing as spre
from powerpixels import load_lfp
from spikeinterface.sortingcomponents.motion import estimate_motion, interpolate_motion


def main(session: Path, probe: str, out: Path, motion_hz: float = 250) -> None:
    """Clean the probe's LFP, estimate its motion motion_hz times a second, and write both."""
    out.mkdir(parents=True, exist_ok=True)
    lfp = load_lfp(session, probe)
    np.save(out / "times.npy", lfp.get_times())
    lfp.reset_times()  # SpikeInterface's interpolation asks for the time behind the last sample
    microvolts = spre.scale_to_uV(spre.astype(lfp, "float32"))
    # A filter of 1 Hz needs long margins, so chunks are long too.
    band = spre.bandpass_filter(
        microvolts, freq_min=1, freq_max=400, margin_ms=5000, ignore_low_freq_error=True
    )
    aligned = spre.phase_shift(band)
    shanks = aligned.get_channel_groups()
    groups = [aligned.channel_ids[shanks == shank].tolist() for shank in np.unique(shanks)]
    referenced = spre.common_reference(aligned, operator="median", groups=groups)
    clean = referenced.save(folder=out / "lfp_car", chunk_duration="30s", n_jobs=1, overwrite=True)

    # DREDge finds motion in the slow pattern along the probe, one signal for each height. What all channels
    # share tells nothing of where they are, so it is the second derivative along the probe.
    slow = spre.bandpass_filter(
        microvolts, freq_min=2, freq_max=100, margin_ms=2500, ignore_low_freq_error=True
    )
    slower = spre.resample(spre.phase_shift(slow), motion_hz)
    sources = spre.directional_derivative(slower, direction="y", order=2, edge_order=1)
    heights = spre.average_across_direction(sources, direction="y")
    motion = estimate_motion(heights, method="dredge_lfp", rigid=True)
    motion.save(out / "motion")
    # Where the channels would lie is worked out anew ten times a second, not at each of motion's bins.
    moved = interpolate_motion(clean, motion, border_mode="force_zeros", interpolation_time_bin_size_s=0.1)
    moved.save(folder=out / "lfp_motion_corrected", chunk_duration="30s", n_jobs=1, overwrite=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
