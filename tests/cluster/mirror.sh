#!/usr/bin/env bash
# Prints the Debian mirror that this machine itself is set up with.
set -euo pipefail
shopt -s nullglob
sources=(/etc/apt/sources.list.d/*.sources)
lists=(/etc/apt/sources.list /etc/apt/sources.list.d/*.list)
{
    [ ${#sources[@]} = 0 ] || sed -n 's/^URIs:[[:space:]]*\([^[:space:]]*\).*/\1/p' "${sources[@]}"
    sed -n 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\) .*/\2/p' "${lists[@]}" 2> /dev/null || true
} | grep -E '/debian/?$' | head -n 1 | grep .
