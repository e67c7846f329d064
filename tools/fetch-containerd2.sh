#!/usr/bin/env bash
# Fetches containerd 2.1 (Debian 12 has 1.6) into ${BELLJAR_CACHE:-~/.cache/belljar}/containerd-2.1, beside the system and not into
# it: Debian sid's package, pinned by version and SHA-256. It needs no newer library than Debian 12 has. Tests use it for the newer
# dialects: configuration version 3, task API v3, protobuf bootstrap. Prints the folder that holds containerd and ctr.
set -euo pipefail

version='2.1.9+ds1-5'
sha256='2dda86ce7033fd612fc50e136679d8174ccad680eb29cd4611e0d2a1b84cf591'
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

root="${BELLJAR_CACHE:-$HOME/.cache/belljar}/containerd-2.1"
mkdir -p "$root"
root=$(cd "$root" && pwd)
exec 9>"$root/lock"
flock 9

if [ -x "$root/tree/usr/bin/containerd" ] && [ "$(cat "$root/version" 2>/dev/null)" = "$version" ]; then
    echo "$root/tree/usr/bin"
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
printf 'Types: deb\nURIs: %s\nSuites: sid\nComponents: main\nArchitectures: amd64\nTargets: Packages\nSigned-By: %s\n' \
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
Acquire::Languages "none";
Debug::NoLocking "true";
EOF
} >"$work/apt.conf"
export APT_CONFIG="$work/apt.conf" LC_ALL=C

apt-get -qq update --error-on=any
if [ -z "$(apt-cache -q=2 show "containerd=$version" 2>/dev/null)" ]; then
    echo "containerd $version is no longer in sid; move the pin in $0" >&2
    exit 3
fi
(cd "$work" && apt-get -qq download "containerd=$version")

deb=$(ls "$work"/containerd_*.deb)
found=$(sha256sum "$deb" | cut -d' ' -f1)
[ "$found" = "$sha256" ] || { echo "the SHA-256 of containerd $version is $found, expected $sha256" >&2; exit 1; }

dpkg-deb -x "$deb" "$work/tree"
"$work/tree/usr/bin/containerd" --version >"$work/answer" || { echo "the fetched containerd does not run on this machine" >&2; exit 3; }
rm -rf "$root/tree" "$root/version"
mv "$work/tree" "$root/tree"
echo "$version" >"$root/version"
echo "$root/tree/usr/bin"
