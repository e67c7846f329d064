#!/usr/bin/env bash
# Prints in one line why the test cluster cannot run here, or nothing.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/env.sh"
[ "$(id -u)" = 0 ] || { echo "the test cluster needs root"; exit; }
for program in containerd runc ctr etcd iptables ip curl openssl nsenter unshare bc flock; do
  command -v $program >/dev/null || { echo "$program is not installed: tools/deps.sh test"; exit; }
done
[ -x /usr/lib/cni/bridge ] || { echo "no /usr/lib/cni/bridge: tools/deps.sh test"; exit; }
# Written for separate hierarchies; with only cgroup v2 it was never run.
[ -d /sys/fs/cgroup/memory ] || { echo "/sys/fs/cgroup has no version 1 hierarchies"; exit; }
[ -e /dev/net/tun ] || { echo "no /dev/net/tun"; exit; }
