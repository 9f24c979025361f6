"""Small SpikeGLX recordings for tests: headers as SpikeGLX writes them, data files of zeros."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def imro_np1(ap_gains: list[int], lf_gains: list[int]) -> str:
    """imroTbl value of a 1.0 probe, bank 0, with a gain for each of its channels."""
    entries = zip(ap_gains, lf_gains, strict=True)
    return "(0,384)" + "".join(f"({k} 0 0 {ap} {lf} 1)" for k, (ap, lf) in enumerate(entries))


def np1_header(kind: str = "ap", device: str = "imec0", run: str = "run_g0_t0", **keys: str) -> dict:
    """Header of a 1.0 probe that saved all its AP (or LF) channels; keys replace or add to it."""
    counts, subset, rate = {
        "ap": ("384,0,1", "0:383,768", "30000"),
        "lf": ("0,384,1", "384:768", "2500"),
    }[kind]
    return {
        "acqApLfSy": "384,384,1",
        "appVersion": "20230411",
        "fileCreateTime": "2026-03-01T10:35:10",
        "fileName": f"D:/data/run_g0/{run}.{device}.{kind}.bin",
        "firstSample": "1000",
        "imAiRangeMax": "0.6",
        "imDatPrb_pn": "PRB_1_4_0480_1",
        "imDatPrb_sn": "18005116811",
        "imDatPrb_type": "0",
        "imMaxInt": "512",
        "imSampRate": rate,
        "nSavedChans": "385",
        "snsApLfSy": counts,
        "snsSaveChanSubset": subset,
        "syncSourceIdx": "3",
        "typeThis": "imec",
        "~imroTbl": imro_np1([500] * 384, [250] * 384),
        **keys,
    }


def np2_header(
    part_number: str = "NP2014", device: str = "imec1", run: str = "run_g0_t0", **keys: str
) -> dict:
    """Header of a four-shank 2.0 probe, 96 channels at the tip of each shank."""
    entries = "".join(f"({k} {k // 96} 0 0 {k % 96})" for k in range(384))
    return {
        **np1_header("ap", device, run),
        "acqApLfSy": "384,0,1",
        "imAiRangeMax": "0.62",
        "imChan0apGain": "100",
        "imDatPrb_pn": part_number,
        "imDatPrb_sn": "22420006883",
        "imDatPrb_type": "2013",
        "imMaxInt": "2048",
        "snsSaveChanSubset": "0:384",
        "~imroTbl": f"(2013,384){entries}",
        **keys,
    }


def nidq_header(run: str = "run_g0_t0", **keys: str) -> dict:
    """Header of a NIDQ with two analog inputs and eight digital lines, sync on line 0."""
    return {
        "acqMnMaXaDw": "0,0,2,1",
        "appVersion": "20230411",
        "fileCreateTime": "2026-03-01T10:35:09",
        "fileName": f"D:/data/run_g0/{run}.nidq.bin",
        "firstSample": "400",
        "nSavedChans": "3",
        "niAiRangeMax": "5",
        "niMAChans1": "",
        "niMAGain": "1",
        "niMNChans1": "",
        "niMNGain": "200",
        "niSampRate": "10000",
        "niXAChans1": "0:1",
        "niXDBytes1": "1",
        "niXDChans1": "0:7",
        "snsMnMaXaDw": "0,0,2,1",
        "snsSaveChanSubset": "all",
        "syncNiChan": "0",
        "syncNiChanType": "0",
        "syncSourceIdx": "3",
        "typeThis": "nidq",
        **keys,
    }


def obx_header(run: str = "run_g0_t0", **keys: str) -> dict:
    """Header of a OneBox's own stream: two analog inputs, the digital word, the sync word."""
    return {
        "acqXaDwSy": "2,1,1",
        "appVersion": "20230411",
        "fileCreateTime": "2026-03-01T10:35:09",
        "fileName": f"D:/data/run_g0/{run}.obx0.obx.bin",
        "firstSample": "1000",
        "imDatBsc_sn": "42",
        "imDatObx_slot": "21",
        "nSavedChans": "4",
        "obAiRangeMax": "5",
        "obAiRangeMin": "-5",
        "obMaxInt": "32768",
        "obSampRate": "30303",
        "snsSaveChanSubset": "all",
        "snsXaDwSy": "2,1,1",
        "syncSourceIdx": "3",
        "typeThis": "obx",
        **keys,
    }


def write_header(path: Path, header: dict) -> Path:
    """Write a .meta file with Windows line ends; keys whose value is None are left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{key}={value}\r\n" for key, value in header.items() if value is not None]
    path.write_bytes("".join(lines).encode("latin-1"))
    return path


def sampling_rate(header: dict) -> float:
    """Samples per second of the stream that a header describes."""
    return float(header.get("imSampRate") or header.get("niSampRate") or header["obSampRate"])


def write_recording(
    path: Path, header: dict, seconds: float = 2.0, samples: np.ndarray | None = None
) -> Path:
    """Write a header and a data file that fits it; returns the header's path.

    samples: int16 (n, nSavedChans); without them the file is zeros (sparse), ``seconds`` long.
    """
    n_columns = int(header["nSavedChans"])
    n_samples = int(sampling_rate(header) * seconds) if samples is None else len(samples)
    size = n_samples * 2 * n_columns
    write_header(path, {"fileSizeBytes": str(size), **header})
    with path.with_suffix(".bin").open("wb") as data:
        if samples is None:
            data.truncate(size)
        else:
            samples.astype("<i2").tofile(data)
    return path
