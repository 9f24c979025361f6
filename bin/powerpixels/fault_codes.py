"""What each fault of the input means and what can be done about it: the one place, for report and manual.

A fault's own message tells the particulars. Whether it blocks is the fault's severity: one that concerns
what a probe can be sorted without (its LF stream) only warns.
"""

from __future__ import annotations

from typing import NamedTuple


class FaultCode(NamedTuple):
    """A fault in general: its meaning and the user's remedy, a sentence or two each."""

    meaning: str
    advice: str


CODES: dict[str, FaultCode] = {
    "ALL_ZERO": FaultCode(
        "Every value that was looked at is 0: nothing was acquired, or the copy is not complete.",
        "Copy the file again from the acquisition PC.",
    ),
    "AP_MISSING": FaultCode(
        "A probe has an LF stream but no AP stream, which holds the spikes.",
        "Copy its .ap.bin and .ap.meta from the acquisition PC.",
    ),
    "BIN_MISSING": FaultCode(
        "A header lies there without the data file that it describes.",
        "Copy the data file from the acquisition PC, beside the header.",
    ),
    "CATGT_GAPS_CLOSED": FaultCode(
        "CatGT joined several files and shortened the gaps between them, so that times are wrong.",
        "Use the original files, or run CatGT without the option that the message names.",
    ),
    "CATGT_JOINED": FaultCode(
        "CatGT joined several files into this one, with zeros in the gaps; its filters are in the data.",
        "Use the original files if they still exist.",
    ),
    "CATGT_PROCESSED": FaultCode(
        "The data are CatGT's output: already filtered and, as a rule, aligned in time.",
        "Use the original files if they still exist.",
    ),
    "CHANNELS_WITHOUT_ELECTRODE": FaultCode(
        "Some channels have no electrode, as the reference of 1.0 probes; they are left out.",
        "Nothing, if they are the ones that the probe's settings left out.",
    ),
    "CHANNEL_MAP": FaultCode(
        "The data were recorded behind a Channel Map, which can reorder channels.",
        "Nothing if the channels keep their names; otherwise use the data of a Record Node before the map.",
    ),
    "CONSTANT_CHANNELS": FaultCode(
        "Many channels of the probe stay at one value.",
        "Check that the probe is whole and that the channel settings are right.",
    ),
    "CONSTANT_DATA": FaultCode(
        "No channel of the probe ever changes its value: nothing was acquired.",
        "Check the probe, its cable and the acquisition's settings; record again.",
    ),
    "DATA_UNREADABLE": FaultCode(
        "A compressed data file cannot be opened: it or its index is damaged or of another recording.",
        "Copy both again from where the file was compressed.",
    ),
    "DUPLICATE_DATA": FaultCode(
        "The samples lie there more than once, compressed and not; one of the files is used.",
        "Remove the files that are not needed.",
    ),
    "DUPLICATE_STREAM": FaultCode(
        "The same stream was found more than once, in copies or recorded twice.",
        "Point the samplesheet's raw column at a folder with one of them.",
    ),
    "DURATIONS_DIFFER": FaultCode(
        "The streams of the session do not last equally long, though they are stopped together.",
        "Check that all files are of one recording and were copied whole.",
    ),
    "DURATION_MISMATCH": FaultCode(
        "The header's own duration does not fit its file size and sampling rate.",
        "Check the sampling rate in the header: all times come from it.",
    ),
    "EMPTY_FILE": FaultCode(
        "A data file has no bytes in it.",
        "Copy it again from the acquisition PC.",
    ),
    "FILTERED": FaultCode(
        "The data were recorded behind a filter or another processor that changes them.",
        "Use the data of a Record Node before it, if there are any.",
    ),
    "GAP": FaultCode(
        "The acquisition paused: some time has no samples. Spike times count it.",
        "Nothing, if the pause was wanted; otherwise look for files that were not copied.",
    ),
    "IMPLAUSIBLE_DURATION": FaultCode(
        "The recording would have lasted longer than any does.",
        "Check the sampling rate, the number of saved channels and the first sample in the header.",
    ),
    "INDEX_MISSING": FaultCode(
        "A .cbin file lies there without its .ch file, without which it cannot be decompressed.",
        "Copy the .ch file from where the data were compressed.",
    ),
    "META_MISSING": FaultCode(
        "A data file lies there without the header that describes it.",
        "Copy the header from the acquisition PC, beside the data.",
    ),
    "META_UNFINISHED": FaultCode(
        "The acquisition program did not close the file: it crashed, or was stopped hard.",
        "Check that the recording is as long as it should be; what is there is used.",
    ),
    "META_UNREADABLE": FaultCode(
        "A header cannot be understood: something in it is missing, garbled or contradicts the rest.",
        "Restore the file as the acquisition program wrote it.",
    ),
    "MIXED_ACQUISITIONS": FaultCode(
        "The folder holds recordings of both SpikeGLX and Open Ephys.",
        "Give each its own row in the samplesheet, with raw pointing at its own folder.",
    ),
    "MULTIPLE_EXPERIMENTS": FaultCode(
        "The folder holds several Open Ephys experiments, between which the clocks start anew.",
        "Give each a row whose raw is its experiment folder; the same value in the column concatenate "
        "sorts them together.",
    ),
    "MULTIPLE_RUNS": FaultCode(
        "The folder holds several SpikeGLX runs.",
        "Give each a row of its own; the same value in the column concatenate sorts them together.",
    ),
    "NO_PROBE": FaultCode(
        "No AP stream of any probe was found in the recording.",
        "Point the samplesheet's raw column at the folder that holds the probes' files.",
    ),
    "NO_RECORDING": FaultCode(
        "The folder holds no recording of SpikeGLX or Open Ephys (binary format).",
        "Check the path in the samplesheet's raw column.",
    ),
    "ORDER_UNKNOWN": FaultCode(
        "Several files of a stream do not tell where they lie in time.",
        "Restore the headers as the acquisition program wrote them.",
    ),
    "OVERLAP": FaultCode(
        "Files of a stream hold some samples twice; those of the earlier file are used.",
        "Nothing: that is so where a trigger's margins were longer than its pauses.",
    ),
    "PADDED_SAMPLES": FaultCode(
        "The acquisition lost samples and wrote zeros in their place.",
        "Look at the acquisition PC's load; spike times keep, there are no spikes in these samples.",
    ),
    "PARTIAL_SAMPLE": FaultCode(
        "The size of the data file is not that of whole samples of all channels.",
        "Check that header and data belong together, and copy both again.",
    ),
    "PROBE_NUMBER_GUESSED": FaultCode(
        "Neither file names nor headers tell the probe's number; it was numbered by its slot and port.",
        "Rename the files if the probe had another number.",
    ),
    "READ_ERROR": FaultCode(
        "The data file exists, but its samples cannot be read.",
        "Check permissions and disk, and copy the file again from the acquisition PC.",
    ),
    "RUN_RESTARTED": FaultCode(
        "The run was stopped between two of its files, and samples were counted anew.",
        "Give each part a row of its own; the same value in the column concatenate sorts them together.",
    ),
    "SAMPLE_NUMBERS_MISSING": FaultCode(
        "The file with the samples' numbers is missing or empty, so that gaps cannot be seen.",
        "Copy it from the acquisition PC if it exists.",
    ),
    "SATURATED": FaultCode(
        "Many channels are at the limits of the converter at once, where no spikes can be seen.",
        "Check ground and reference; look for movement or stimulation at that time.",
    ),
    "SEGMENTS_DIFFER": FaultCode(
        "Files of one stream were recorded with different settings or probes.",
        "Give each its own folder and samplesheet row.",
    ),
    "SEGMENT_MISSING": FaultCode(
        "A stream lacks a file that the session's other streams have.",
        "Copy it from the acquisition PC.",
    ),
    "SETTINGS_MISMATCH": FaultCode(
        "The settings.xml that was found describes another experiment.",
        "Put the settings.xml of this experiment there.",
    ),
    "SETTINGS_OTHER_EXPERIMENT": FaultCode(
        "Only the settings.xml of another experiment of the session was found; it is used.",
        "Copy the right one from the acquisition PC, or check that the electrodes were the same.",
    ),
    "SIZE_MISMATCH": FaultCode(
        "The data file is larger than its header or its sample numbers say.",
        "Copy both again from the acquisition PC.",
    ),
    "STALE_SAMPLES": FaultCode(
        "The file begins with samples of the acquisition before, left in the buffers; they are left out.",
        "Nothing: no sample of this recording is lost.",
    ),
    "STILL_ACQUIRING": FaultCode(
        "A data file changed while it was looked at.",
        "Wait until the recording has ended or the copy is complete, and run again.",
    ),
    "SYNC_MISSING": FaultCode(
        "The channel or line of the sync wave was not saved.",
        "Save it in future recordings; without it a probe's spikes stay on the probe's own clock.",
    ),
    "SYNC_NO_EDGES": FaultCode(
        "The sync wave's level never changes.",
        "Check the sync settings and cables, and the wiring file; without it clocks cannot be aligned.",
    ),
    "SYNC_SOURCE_NONE": FaultCode(
        "The acquisition program was told not to make a sync wave.",
        "Set a source in the program's sync settings, or wire a square wave to all streams.",
    ),
    "TIMESTAMPS_BACK": FaultCode(
        "The numbers of the samples go back in time.",
        "Use the parts before and after as recordings of their own, or record again.",
    ),
    "TIMESTAMPS_BROKEN": FaultCode(
        "The numbers of the samples have gaps throughout, or are no numbers of samples.",
        "Copy the file again from the acquisition PC; if it is the same there, the recording is lost.",
    ),
    "TOO_SHORT": FaultCode(
        "The recording is too short to sort.",
        "Remove it from the samplesheet if it is a test.",
    ),
    "TRUNCATED": FaultCode(
        "The end of the data file is missing.",
        "Copy it again from the acquisition PC.",
    ),
    "UNKNOWN_PROBE": FaultCode(
        "The probe's part number is not in the probe table.",
        "Correct it if it is a slip; otherwise a newer probeinterface is needed.",
    ),
    "UNSUPPORTED_STREAM": FaultCode(
        "A stream is of a kind that is not supported; the message says which.",
        "Nothing if it is not needed; the others are processed.",
    ),
    "WRONG_GAIN": FaultCode(
        "The noise in microvolts is not that of a Neuropixels probe: most likely the gain is wrong.",
        "Check gain and voltage range in the header, and that the probe was connected.",
    ),
    "ZERO_STRETCH": FaultCode(
        "Part of the recording is zeros.",
        "At its end: copy the file again. Within: samples were lost; there are no spikes in it.",
    ),
}
