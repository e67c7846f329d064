# Sourced by the other scripts: names, folders and addresses of the test cluster. Everything can be set from outside.
cache=${BELLJAR_CACHE:-$HOME/.cache/belljar}
# Folder with the binaries of Kubernetes (build.sh).
export K8S_BIN=${K8S_BIN:-$cache/k8s-bin}
# State of the running cluster. One cluster per folder.
export K8S_RUN=${K8S_RUN:-/run/belljar-k8s}
# Name of the node's cgroup below the caller's own, in each hierarchy. One cluster per name.
export K8S_CG=${K8S_CG:-belljar-k8s}
# Folder with *.tar image archives to import; may be empty.
export K8S_IMAGES=${K8S_IMAGES:-}
# File appended to containerd's configuration: further runtime handlers.
export K8S_EXTRA=${K8S_EXTRA:-}
# Folders in front of PATH: where containerd finds containerd-shim-NAME-v2.
export K8S_PATH=${K8S_PATH:-}
# Manifests applied at the end, separated by spaces: RuntimeClasses.
export K8S_MANIFEST=${K8S_MANIFEST:-}
# Folder whose top folders are bound over the same paths of the node: etc/belljar, var/lib/belljar ... (see node.sh).
export K8S_OVERLAY=${K8S_OVERLAY:-}

export NODE=node1 NODE_IP=10.99.0.1 SERVICE_NET=10.96.0.0/16 SERVICE_IP=10.96.0.1 POD_NET=10.88.0.0/16 POD_GATEWAY=10.88.0.1
# Paths of the node that are its own: bind mounts of $K8S_RUN/m/PATH in its mount namespace.
NODE_PATHS="/var/lib/kubelet /var/lib/containerd /var/lib/cni /var/lib/belljar /var/log/pods /var/log/containers /run/containerd
  /run/netns /run/belljar /etc/cni /etc/belljar /opt/containerd /usr/libexec/kubernetes"
