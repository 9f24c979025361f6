#!/usr/bin/env python3
"""COMPRESS: write a verified compressed copy of one stream, and <stream>.compress.json."""

import argparse
from pathlib import Path

from powerpixels.stage import run_stage, write_versions


def main(argv):
    """Parse the arguments and compress."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stream", type=Path, required=True, help="the stream's document (JSON)")
    parser.add_argument("--raw-dir", type=Path, required=True, help="folder of the stream's files")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the copy into")
    parser.add_argument("--folder", default="", help="folder below it for SpikeGLX files: the probe's name")
    parser.add_argument("--method", choices=("mtscomp", "zarr"), required=True)
    parser.add_argument("--jobs", type=int, default=1, help="threads")
    arguments = parser.parse_args(argv)

    from powerpixels import compress
    from powerpixels.documents import StreamDocument
    from powerpixels.rawdata import locate

    document = StreamDocument.load(arguments.stream)
    (places,) = locate([document.stream], arguments.raw_dir)
    done = compress.compress_stream(
        document, places, arguments.out, arguments.method, arguments.jobs, arguments.folder
    )
    folder = arguments.out / arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    done.save(folder / compress.document_name(document.stream))
    packages = {"mtscomp": ("zlib-ng",), "zarr": ("zarr", "numcodecs")}[arguments.method]
    write_versions(Path("versions.json"), "numpy", "pydantic", *packages)


if __name__ == "__main__":
    run_stage(main)
