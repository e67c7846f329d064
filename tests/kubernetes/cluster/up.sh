#!/usr/bin/env bash
# Brings up a one-node Kubernetes (etcd, API server, controller manager, scheduler, kubelet, kube-proxy, containerd, CNI) in mount,
# process, network, UTS, IPC and cgroup namespaces of its own. Outside of them it changes only $K8S_RUN, empty folders to mount on,
# and cgroups named $K8S_CG. About 8 s. Settings: env.sh. Afterwards:
#   $K8S_RUN/net COMMAND   a command in the node's network namespace; one process, can be killed, reads files of the host
#   $K8S_RUN/kubectl ...   kubectl that way
#   $K8S_RUN/in COMMAND    a command in all of the node's namespaces
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
. "$here/env.sh"
reason=$("$here/missing.sh")
[ -z "$reason" ] || { echo "up: $reason" >&2; exit 1; }
if [ -e "$K8S_RUN/pid" ] && kill -0 "$(cat "$K8S_RUN/pid")" 2>/dev/null; then
  echo "up: a cluster runs in $K8S_RUN already; end it with down.sh" >&2
  exit 1
fi
"$here/build.sh"
export PATH=${K8S_PATH:+$K8S_PATH:}$K8S_BIN:$PATH
began=$(date +%s%N)
say() { printf 'up: %5d ms  %s\n' $((($(date +%s%N) - began) / 1000000)) "$*"; }

rm -rf "$K8S_RUN"
mkdir -p "$K8S_RUN/log"
"$here/pki.sh"
say "certificates"
for path in $NODE_PATHS; do mkdir -p "$path" "$K8S_RUN/m$path"; done

# A cgroup in each hierarchy, below the one that this shell is in, so that everything stays accounted to the caller.
for hierarchy in /sys/fs/cgroup/*/; do
  name=$(basename "$hierarchy")
  case $name in
    unified) own=$(sed -n 's#^0::##p' /proc/self/cgroup) ;;
    *) own=$(sed -n -E "s#^[0-9]+:(.*,)?(name=)?$name(,[^:]*)?:##p" /proc/self/cgroup) ;;
  esac
  parent=$hierarchy${own#/}
  parent=${parent%/}
  mkdir -p "$parent/$K8S_CG"
  if [ "$name" = cpuset ]; then
    for file in cpuset.cpus cpuset.mems; do cat "$parent/$file" >"$parent/$K8S_CG/$file"; done
  fi
  echo "$parent/$K8S_CG"
done >"$K8S_RUN/cgroups"

(
  while read -r cgroup; do echo $BASHPID >"$cgroup/cgroup.procs"; done <"$K8S_RUN/cgroups"
  exec setsid unshare --cgroup --mount --net --uts --ipc --pid --fork --kill-child --mount-proc "$here/node.sh"
) >"$K8S_RUN/log/node.log" 2>&1 </dev/null &
outer=$!
for _ in $(seq 250); do
  pid=$(tr -d ' ' <"/proc/$outer/task/$outer/children" 2>/dev/null || true)
  [ -n "$pid" ] && grep -q node.sh "/proc/$pid/cmdline" 2>/dev/null && break
  sleep 0.02
done
echo "$pid" >"$K8S_RUN/pid"
echo "$outer" >"$K8S_RUN/pid.outer"
trap 'status=$?; [ $status = 0 ] || { tail -n 20 "$K8S_RUN"/log/*.log >&2; "$here/down.sh"; }' EXIT

environment="export PATH='$PATH' KUBECONFIG=$K8S_RUN/pki/admin.conf CONTAINERD_ADDRESS=/run/containerd/containerd.sock CONTAINERD_NAMESPACE=k8s.io"
printf '#!/bin/bash\n%s\nexec nsenter -t %s -m -n -u -i -p -C -- "$@"\n' "$environment" "$pid" >"$K8S_RUN/in"
printf '#!/bin/bash\n%s\nexec nsenter -t %s -n -- "$@"\n' "$environment" "$pid" >"$K8S_RUN/net"
printf '#!/bin/bash\nexec %s/net kubectl "$@"\n' "$K8S_RUN" >"$K8S_RUN/kubectl"
chmod +x "$K8S_RUN/in" "$K8S_RUN/net" "$K8S_RUN/kubectl"

# until WHAT COMMAND: within 120 s
until_ok() {
  local what=$1 _
  shift
  for _ in $(seq 1200); do
    if "$@" >/dev/null 2>&1; then say "$what"; return; fi
    kill -0 "$pid" 2>/dev/null || { echo "up: the node ended" >&2; exit 1; }
    sleep 0.1
  done
  echo "up: no $what within 120 s" >&2
  exit 1
}
kubectl() { "$K8S_RUN/kubectl" "$@"; }
until_ok containerd "$K8S_RUN/in" ctr version
if [ -n "$K8S_IMAGES" ]; then
  for archive in "$K8S_IMAGES"/*.tar; do "$K8S_RUN/in" ctr image import "$archive" >/dev/null; done
  say images
fi
until_ok "API server" kubectl get --raw /readyz
until_ok "default service account" kubectl get serviceaccount default
for manifest in $K8S_MANIFEST; do kubectl apply -f "$manifest" >>"$K8S_RUN/log/manifest.log"; done
until_ok "node $NODE ready" kubectl wait --for=condition=Ready node/$NODE --timeout=1s
