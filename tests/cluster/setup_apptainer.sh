#!/usr/bin/env bash
# Apptainer on a Debian test machine whose own release has none: from Debian's unstable suite, beside the C library
# that it needs. Needs root. Says nothing and does nothing where apptainer works already.
set -euo pipefail

works() { apptainer version > /dev/null 2>&1 && command -v mksquashfs debootstrap fuse-overlayfs newuidmap > /dev/null; }
if works; then exit 0; fi
[ "$(id -u)" = 0 ] || { echo "setup_apptainer.sh: needs root" >&2; exit 1; }
[ -f /etc/debian_version ] || { echo "setup_apptainer.sh: knows Debian only" >&2; exit 1; }

export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install -y --no-install-recommends \
    ca-certificates debootstrap fuse-overlayfs fuse3 patchelf squashfs-tools squashfuse uidmap > /dev/null

# The machine's own mirror, and a list of packages of its own: its configuration stays as it is.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
chmod 755 "$scratch"
mirror=$("$(dirname "$0")/mirror.sh")
mkdir -p "$scratch/lists/partial" "$scratch/packages"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror unstable main" > "$scratch/unstable.list"
unstable=(-qq -o "Dir::Etc::sourcelist=$scratch/unstable.list" -o Dir::Etc::sourceparts=-
    -o "Dir::State::lists=$scratch/lists" -o APT::Sandbox::User=root)
apt-get "${unstable[@]}" update
(cd "$scratch/packages" && apt-get "${unstable[@]}" download apptainer libc6 libseccomp2 libsqlite3-0)

libraries=/opt/apptainer-libraries
mkdir -p "$libraries"
for package in "$scratch"/packages/lib*.deb; do
    dpkg-deb -x "$package" "$scratch/unpacked"
done
for folder in "$scratch"/unpacked/usr/lib/x86_64-linux-gnu "$scratch"/unpacked/lib/x86_64-linux-gnu; do
    [ ! -d "$folder" ] || find "$folder" -maxdepth 1 -name '*.so*' -exec cp -a {} "$libraries/" \;
done
dpkg-deb -x "$scratch"/packages/apptainer_*.deb "$scratch/apptainer"
cp -a "$scratch/apptainer/." /

# Only these programs see the newer library.
loader=$libraries/ld-linux-x86-64.so.2
starter=$(find /usr/lib /usr/libexec -path '*apptainer/bin/starter' | head -n 1)
for program in /usr/bin/apptainer "$starter"; do
    patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$program"
done
for library in "$libraries"/libseccomp.so.* "$libraries"/libsqlite3.so.*; do
    [ -L "$library" ] || patchelf --force-rpath --set-rpath "$libraries" "$library"
done

# A range of ids for root, of which --fakeroot makes the image's own users.
for file in /etc/subuid /etc/subgid; do
    grep -qs '^root:' "$file" || echo 'root:100000:65536' >> "$file"
done
works || { echo "setup_apptainer.sh: apptainer does not run after its installation" >&2; apptainer version; exit 1; }
