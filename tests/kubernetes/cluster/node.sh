#!/usr/bin/env bash
# The first process of the node's namespaces (up.sh): prepares them, starts the components and, like a service manager, starts again
# what ends. $K8S_RUN/pids/NAME holds a component's process id in here, so that
#   $K8S_RUN/in sh -c 'kill -9 $(cat $K8S_RUN/pids/containerd)'
# is a restart; a file $K8S_RUN/hold/NAME keeps it down until the file is removed.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/env.sh"

mount --make-rprivate /
mount --make-rshared /
hostname $NODE
for path in $NODE_PATHS; do mount --bind "$K8S_RUN/m$path" "$path"; done
if [ -n "$K8S_OVERLAY" ]; then
  # Only folders that are the node's own, so that nothing of the host is written to.
  (cd "$K8S_OVERLAY" && find . -type f -o -type l) | while read -r file; do
    mkdir -p "$(dirname "/$file")"
    cp -a "$K8S_OVERLAY/$file" "/$file"
  done
fi
mount -t tmpfs -o mode=0700 none /run/belljar
# The hierarchies, as seen from this cgroup namespace.
for hierarchy in /sys/fs/cgroup/*/; do
  name=$(basename "$hierarchy")
  umount "$hierarchy"
  case $name in
    unified) mount -t cgroup2 cgroup2 "$hierarchy" ;;
    systemd) mount -t cgroup -o none,name=systemd cgroup "$hierarchy" ;;
    *) mount -t cgroup -o "$name" cgroup "$hierarchy" ;;
  esac
done
# The kubelet writes these sysctls, which are the whole machine's; it gets files of its own instead.
mkdir -p "$K8S_RUN/sysctl"
while read -r name value; do
  echo "$value" >"$K8S_RUN/sysctl/$name"
  mount --bind "$K8S_RUN/sysctl/$name" "/proc/sys/${name//.//}"
done <<K
vm.overcommit_memory 1
vm.panic_on_oom 0
kernel.panic 10
kernel.panic_on_oops 1
kernel.keys.root_maxkeys 1000000
kernel.keys.root_maxbytes 25000000
K
printf '127.0.0.1 localhost\n%s %s\n' $NODE_IP $NODE >"$K8S_RUN/hosts"
mount --bind "$K8S_RUN/hosts" /etc/hosts
echo "nameserver $NODE_IP" >"$K8S_RUN/resolv.conf"
mount --bind "$K8S_RUN/resolv.conf" /etc/resolv.conf

ip link set lo up
ip addr add $NODE_IP/32 dev lo
# The default route leads nowhere; kube-proxy's translation of the node's own traffic needs one.
ip link add cni0 type bridge
ip addr add $POD_GATEWAY/16 dev cni0
ip link set cni0 up
ip route add default dev cni0 src $NODE_IP
echo 1 >/proc/sys/net/ipv4/ip_forward
mkdir -p /etc/cni/net.d
cat >/etc/cni/net.d/10-bridge.conflist <<K
{"cniVersion": "0.4.0", "name": "bridge", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$POD_NET"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
K

# Without restrict_oom_score_adj each pod fails where CAP_SYS_RESOURCE is missing.
cat >"$K8S_RUN/containerd.toml" <<K
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[debug]
  level = "${CONTAINERD_LOG:-info}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.local/pause:3.6"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
K
[ -z "$K8S_EXTRA" ] || cat "$K8S_EXTRA" >>"$K8S_RUN/containerd.toml"

pki=$K8S_RUN/pki
cat >"$K8S_RUN/kubelet.yaml" <<K
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $NODE_IP
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $pki/kubelet.crt
tlsPrivateKeyFile: $pki/kubelet.key
cgroupDriver: cgroupfs
failSwapOn: false
# Only what is really at the end: the disk is shared with builds.
evictionHard: {memory.available: 50Mi, nodefs.available: 64Mi, nodefs.inodesFree: 1%, imagefs.available: 64Mi}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
maxOpenFiles: 20000
oomScoreAdj: 0
nodeStatusUpdateFrequency: 1s
syncFrequency: 10s
fileCheckFrequency: 5s
resolvConf: /etc/resolv.conf
serializeImagePulls: false
K

# Each component is a script, so that it can be started again the same way.
mkdir -p "$K8S_RUN/components" "$K8S_RUN/pids" "$K8S_RUN/hold"
declare -A running
start() {
  bash "$K8S_RUN/components/$1" >>"$K8S_RUN/log/$1.log" 2>&1 &
  running[$1]=$!
  echo $! >"$K8S_RUN/pids/$1"
}
component() {
  local name=$1
  shift
  { printf exec; printf ' %q' "$@"; } >"$K8S_RUN/components/$name"
  start "$name"
}
mkdir -p "$K8S_RUN/etcd"
mount -t tmpfs -o size=512m none "$K8S_RUN/etcd"
component etcd etcd --data-dir "$K8S_RUN/etcd/data" --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
  --listen-peer-urls http://127.0.0.1:2380
component containerd containerd -c "$K8S_RUN/containerd.toml"
component apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 --bind-address=$NODE_IP --advertise-address=$NODE_IP \
  --tls-cert-file=$pki/apiserver.crt --tls-private-key-file=$pki/apiserver.key --client-ca-file=$pki/ca.crt \
  --kubelet-client-certificate=$pki/apiserver-kubelet.crt --kubelet-client-key=$pki/apiserver-kubelet.key \
  --kubelet-certificate-authority=$pki/ca.crt --kubelet-preferred-address-types=InternalIP --authorization-mode=Node,RBAC \
  --service-cluster-ip-range=$SERVICE_NET --allow-privileged=true --service-account-issuer=https://kubernetes.default.svc \
  --service-account-key-file=$pki/sa.pub --service-account-signing-key-file=$pki/sa.key --requestheader-client-ca-file=$pki/ca.crt \
  --proxy-client-cert-file=$pki/front-proxy.crt --proxy-client-key-file=$pki/front-proxy.key --enable-admission-plugins=NodeRestriction
until [ -S /run/containerd/containerd.sock ]; do sleep 0.05; done
# Before the API server is ready: the kubelet first looks for a socket of CRI-O for 5 s.
component kubelet kubelet --config="$K8S_RUN/kubelet.yaml" --kubeconfig=$pki/kubelet.conf --container-runtime=remote \
  --container-runtime-endpoint=unix:///run/containerd/containerd.sock --hostname-override=$NODE --node-ip=$NODE_IP --v="${KUBELET_V:-2}"
component controller-manager kube-controller-manager --kubeconfig=$pki/admin.conf --leader-elect=false --bind-address=127.0.0.1 --port=0 \
  --service-account-private-key-file=$pki/sa.key --root-ca-file=$pki/ca.crt --cluster-signing-cert-file=$pki/ca.crt \
  --cluster-signing-key-file=$pki/ca.key
component scheduler kube-scheduler --kubeconfig=$pki/scheduler.conf --leader-elect=false --bind-address=127.0.0.1 --port=0
until [ "$(curl -sk --max-time 2 --cert $pki/admin.crt --key $pki/admin.key https://$NODE_IP:6443/readyz)" = ok ]; do
  sleep 0.1
  kill -0 "${running[apiserver]}"
done
component kube-proxy kube-proxy --kubeconfig=$pki/kube-proxy.conf --cluster-cidr=$POD_NET --hostname-override=$NODE --bind-address=$NODE_IP \
  --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0 --healthz-bind-address=127.0.0.1:10256

trap 'kill "${running[@]}" 2>/dev/null; exit 0' TERM INT
while :; do
  for name in "${!running[@]}"; do
    if [ ! -d "/proc/${running[$name]}" ] && [ ! -e "$K8S_RUN/hold/$name" ]; then
      echo "$name ended and is started again"
      start "$name"
    fi
  done
  # Also reaps orphans.
  sleep 0.3 & wait $! || true
done
