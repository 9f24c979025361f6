"""Kilosort 4's universal-template match on the CPU, fused.

On the CPU nearly all of Kilosort's time goes into ``kilosort.spikedetect.template_match``: its tensors of
channels x templates x time are far larger than the caches, and each is written and read several times.
Here one loop over blocks of samples keeps them in the cache, and only matches above the threshold are
tested for being a local maximum. The formulas are Kilosort's; only the order of the sums over channels
differs, so values agree to float32 rounding.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

import numba
import numpy as np

log = logging.getLogger("powerpixels")

# The versions whose function was compared with this one.
CHECKED_VERSIONS = ("4.1.7",)

BLOCK = 512


@numba.njit(nogil=True, fastmath={"contract"})
def _best_match(B, centres, iC, weigh, As, imaxs):
    """Largest absolute match of each centre at each sample, and which template and sign it was.

    B: (channels, templates, samples) float32. centres: (c,) which columns of iC to do. iC: (nearest,
    centres). weigh: (sizes, nearest, centres) float32. Fills the rows `centres` of As, (centres, samples)
    float32, and imaxs, int32: sign * (1 + size * templates + template).
    """
    n_sizes, n_near = weigh.shape[0], weigh.shape[1]
    n_templates, n_samples = B.shape[1], B.shape[2]
    match = np.empty(BLOCK, dtype=np.float32)
    for centre in centres:
        for start in range(0, n_samples, BLOCK):
            n = min(BLOCK, n_samples - start)
            best = As[centre, start : start + n]
            index = imaxs[centre, start : start + n]
            best[:] = -1.0
            for size in range(n_sizes):
                for template in range(n_templates):
                    match[:n] = 0.0
                    for near in range(n_near):
                        w = weigh[size, near, centre]
                        values = B[iC[near, centre], template, start : start + n]
                        for m in range(n):
                            match[m] += w * values[m]
                    code = 1 + size * n_templates + template
                    for m in range(n):
                        value = abs(match[m])
                        larger = value > best[m]
                        index[m] = (code if match[m] > 0 else -code) if larger else index[m]
                        best[m] = value if larger else best[m]


@numba.njit(nogil=True)
def _local_maxima(As, iC2, threshold, nt, nt0):
    """(centre, sample) of all matches above the threshold that nothing near exceeds, in that order.

    As: (centres, samples) float32. iC2: (nearest, centres) centres that compete with each. The first and
    last nt samples count as zero when maxima are taken.
    """
    n_centres, n_samples = As.shape
    found = []
    for centre in range(n_centres):
        for t in range(n_samples):
            value = As[centre, t]
            if not value > threshold:
                continue
            first, last = max(t - nt0, nt), min(t + nt0, n_samples - nt - 1)
            largest = np.float32(0.0)
            for near in range(iC2.shape[0]):
                rival = iC2[near, centre]
                for other in range(first, last + 1):
                    if As[rival, other] > largest:
                        largest = As[rival, other]
                if largest > value:
                    break
            if largest == value:
                found.append((centre, t))
    return found


def template_match(X, ops, iC, iC2, weigh, device=None):
    """Stand-in for ``kilosort.spikedetect.template_match`` on the CPU: same arguments, same results.

    X: (channels, samples) float32 tensor. Returns xy (n, 2), imax (n,), amp (n,) and adist (nearest, n), as
    Kilosort's.
    """
    import torch
    from torch.nn.functional import conv1d

    nt, nt0, nk = ops["nt"], ops["settings"]["nt0min"], ops["settings"]["n_templates"]
    B = conv1d(X.unsqueeze(1), ops["wTEMP"].unsqueeze(1), padding=nt // 2)
    n_centres, n_samples = iC.shape[1], X.shape[-1]
    As = np.empty((n_centres, n_samples), dtype=np.float32)
    imaxs = np.zeros((n_centres, n_samples), dtype=np.int32)
    arrays = B.numpy(), iC.numpy(), np.ascontiguousarray(weigh.numpy())
    n_threads = torch.get_num_threads()
    with ThreadPoolExecutor(n_threads) as pool:
        parts = [np.arange(k, n_centres, n_threads) for k in range(n_threads)]
        for done in [pool.submit(_best_match, arrays[0], part, *arrays[1:], As, imaxs) for part in parts]:
            done.result()
    # An empty list has no type for numba's caller; the shape says that there are none.
    found = _local_maxima(As, iC2.numpy(), np.float32(ops["Th_universal"]), nt, nt0)
    xy = torch.from_numpy(np.array(found, dtype=np.int64).reshape(-1, 2))
    imax = torch.from_numpy(imaxs).to(torch.int64)[xy[:, 0], xy[:, 1]]
    amp = torch.from_numpy(As)[xy[:, 0], xy[:, 1]]
    sign = imax.sign()
    imax = imax.abs() - 1
    adist = B[iC[:, xy[:, 0]], imax % nk, xy[:, 1]] * sign
    return xy, imax, amp, adist


def install() -> bool:
    """Put this function into Kilosort, for the CPU only; returns whether it was done.

    Not for a version of Kilosort that it was not compared with: that one runs as it is, slower.
    """
    from kilosort import spikedetect

    version = metadata.version("kilosort")
    if version not in CHECKED_VERSIONS:
        log.warning(
            "Kilosort %s is not one that the fast match was checked against: its own is used", version
        )
        return False
    spikedetect.template_match = template_match
    return True
