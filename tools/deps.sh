#!/usr/bin/env bash
# Installs what the build, the tests and the demo need on Debian 12, and nothing when it is all there.
set -euo pipefail

packages="
  gcc cmake make mold clang curl ca-certificates python3 python3-venv
  zstd xz-utils cpio
  erofs-utils cryptsetup-bin umoci skopeo docker-registry busybox-static
  chromium
  swtpm swtpm-tools tpm2-tools
"
# With the argument `test`: the one-node Kubernetes of tests/kubernetes, and what builds it.
cluster="
  containerd runc containernetworking-plugins etcd-server iptables iproute2 openssl bc procps util-linux
  golang-1.19-go rsync jq dpkg-dev
  postgresql softhsm2
"
[ "${1:-}" = test ] && packages="$packages $cluster"
backports="qemu-system-x86 qemu-system-data"

have() { dpkg-query -W -f '${Status}\n' "$1" 2>/dev/null | grep -q '^install ok installed'; }
root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

missing=""
for p in $packages; do have "$p" || missing="$missing $p"; done
qemu_ok() { command -v qemu-system-x86_64 >/dev/null && dpkg --compare-versions "$(dpkg-query -W -f '${Version}' qemu-system-x86)" ge 1:10.0; }

if [ -n "$missing" ] || ! qemu_ok; then
  # Backports come from the mirror that the system's own sources name.
  if ! apt-cache policy 2>/dev/null | grep -q 'bookworm-backports/main'; then
    mirror=$(sed -n 's/^URIs: *//p; s/^deb \(\[[^]]*\] \)\?\([^ ]*\) .*/\2/p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep '/debian/\?$' | head -n 1 || true)
    [ -n "$mirror" ] || { echo "deps: no Debian mirror in the apt sources; add bookworm-backports by hand" >&2; exit 1; }
    printf 'Types: deb\nURIs: %s\nSuites: bookworm-backports\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n' "$mirror" \
      | root tee /etc/apt/sources.list.d/belljar-backports.sources >/dev/null
  fi
  root apt-get update -qq
  # shellcheck disable=SC2086
  [ -z "$missing" ] || root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
  qemu_ok || {
    root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ipxe-qemu seabios >/dev/null
    # shellcheck disable=SC2086
    root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -t bookworm-backports $backports >/dev/null
  }
fi

if [ "${1:-}" = test ]; then
  command -v cargo-nextest >/dev/null || cargo install --locked cargo-nextest
fi
