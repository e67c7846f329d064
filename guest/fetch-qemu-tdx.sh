#!/usr/bin/env bash
# Fetches a QEMU that knows the `tdx-guest` object (Debian 12's backport does not) into ${BELLJAR_CACHE:-~/.cache/belljar}/qemu11,
# beside the system and not into it: the package, pinned, of trixie-backports, and its libraries of trixie. The wrapper `qemu` in
# that folder runs it through its own dynamic loader. Tests let its parser check our TDX arguments. Prints the wrapper's path.
set -euo pipefail

version='1:11.1.3+ds-1~bpo13+1'
sha256='447decc4b3c245edc1d0940bdf97c87e07b2e3bd4b24c4d0c7155d860d52bd5f'
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

root="${BELLJAR_CACHE:-$HOME/.cache/belljar}/qemu11"
mkdir -p "$root"
root=$(cd "$root" && pwd)
exec 9>"$root/lock"
flock 9

if [ -x "$root/qemu" ] && [ "$(cat "$root/version" 2>/dev/null)" = "$version" ]; then
    echo "$root/qemu"
    exit 0
fi
[ -r "$keyring" ] || { echo "$keyring is missing; install debian-archive-keyring" >&2; exit 3; }

# the mirror that the system's own sources name for Debian
mirror=${BELLJAR_DEBIAN_MIRROR:-$(apt-get indextargets --format '$(LABEL)|$(REPO_URI)' 'Created-By: Packages' | sed -n 's/^Debian|//p' | head -n 1)}
[ -n "$mirror" ] || { echo "no Debian mirror among the system's apt sources; run apt-get update, or set BELLJAR_DEBIAN_MIRROR" >&2; exit 3; }

work=$(mktemp -d "$root/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/etc"
: >"$work/status"
printf 'Types: deb\nURIs: %s\nSuites: trixie trixie-backports\nComponents: main\nArchitectures: amd64\nTargets: Packages\nSigned-By: %s\n' \
    "$mirror" "$keyring" >"$work/etc/belljar.sources"
{
    # the system's proxies and time-outs, and nothing else of its configuration
    apt-config dump | grep -iE '^Acquire::(https?|Check-)' || true
    cat <<EOF
Dir::Etc::Main "/dev/null";
Dir::Etc::Parts "/dev/null";
Dir::Etc::SourceList "$work/etc/belljar.sources";
Dir::Etc::SourceParts "-";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "$work/state";
Dir::State::Lists "$work/state/lists";
Dir::State::Status "$work/status";
Dir::Cache "$work/cache";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Acquire::Languages "none";
Debug::NoLocking "true";
EOF
} >"$work/apt.conf"
export APT_CONFIG="$work/apt.conf" LC_ALL=C

apt-get -qq update --error-on=any
if [ -z "$(apt-cache -q=2 show "qemu-system-x86=$version" 2>/dev/null)" ]; then
    echo "qemu-system-x86 $version is no longer in trixie-backports; move the pin in $0" >&2
    exit 3
fi
# the empty package state makes apt name every library, down to the C library
apt-get -qq --yes --download-only --target-release trixie-backports install "qemu-system-x86=$version" >"$work/log" 2>&1 ||
    { tail -n 5 "$work/log" >&2; exit 3; }

deb=$(ls "$work"/cache/archives/qemu-system-x86_*.deb)
found=$(sha256sum "$deb" | cut -d' ' -f1)
[ "$found" = "$sha256" ] || { echo "the SHA-256 of qemu-system-x86 $version is $found, expected $sha256" >&2; exit 1; }

for deb in "$work"/cache/archives/*.deb; do
    dpkg-deb -x "$deb" "$work/tree"
done
rm -rf "$root/tree" "$root/qemu"
mv "$work/tree" "$root/tree"

cat >"$work/qemu" <<'EOF'
#!/bin/sh
# QEMU with its own dynamic loader, libraries, modules and firmware
tree=$(dirname "$(readlink -f "$0")")/tree
lib="$tree/usr/lib/x86_64-linux-gnu"
for loader in "$tree/usr/lib64/ld-linux-x86-64.so.2" "$lib/ld-linux-x86-64.so.2"; do
    [ -e "$loader" ] && break
done
QEMU_MODULE_DIR="$lib/qemu" exec "$loader" --library-path "$lib" "$tree/usr/bin/qemu-system-x86_64" \
    -L "$tree/usr/share/qemu" -L "$tree/usr/share/seabios" -L "$tree/usr/lib/ipxe/qemu" "$@"
EOF
chmod 755 "$work/qemu"
mv "$work/qemu" "$root/qemu"
"$root/qemu" --version >"$work/answer" || { echo "the fetched QEMU does not run on this machine" >&2; exit 3; }
echo "$version" >"$root/version"
echo "$root/qemu"
