//! Looking at the node from inside: sandboxes of a pod, processes, and what a pod has left behind.

use belljar_e2e::programs::finish;

use crate::cluster::Cluster;

/// Ids of the sandboxes that containerd knows for a pod, by the labels of the kubelet.
pub fn sandboxes(cluster: &Cluster, namespace: &str, pod: &str) -> Vec<String> {
    let filter =
        format!("labels.\"io.kubernetes.pod.namespace\"=={namespace},labels.\"io.kubernetes.pod.name\"=={pod}");
    let kind = "labels.\"io.cri-containerd.kind\"==sandbox";
    let list = finish(&mut cluster.inside(&["ctr", "containers", "list", "-q", &format!("{filter},{kind}")]));
    assert_eq!(list.code, 0, "{}", list.stderr);
    list.stdout.lines().map(str::to_owned).collect()
}

/// Process ids, as the node counts, of processes of this program whose command line or folder names the sandbox.
pub fn processes(cluster: &Cluster, sandbox: &str, program: &str) -> Vec<String> {
    let script = format!(
        "for p in /proc/[0-9]*; do \
           {{ tr '\\0' ' ' <$p/cmdline; readlink $p/cwd; }} 2>/dev/null | tr '\\n' ' ' | grep -q {sandbox} || continue; \
           head -c 200 $p/cmdline | tr '\\0' ' ' | cut -d' ' -f1 | grep -q {program} && echo ${{p#/proc/}}; \
         done; true"
    );
    cluster.shell(&script).stdout.lines().map(str::to_owned).collect()
}

/// Whether containerd says that a container (`containerd://ID`) runs no longer.
pub fn has_exited(cluster: &Cluster, container: &str) -> bool {
    let id = container.trim_start_matches("containerd://");
    let list = finish(&mut cluster.inside(&["ctr", "tasks", "list"]));
    !list.stdout.lines().any(|line| line.starts_with(id) && line.contains("RUNNING"))
}

/// What knows of sandboxes that should be gone.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Traces(Vec<String>);

impl Traces {
    /// Looks for these ids among processes, mounts, cgroups, sockets and files, and for network interfaces that belong to nobody.
    pub fn of(cluster: &Cluster, sandboxes: &[String]) -> Self {
        let mut found = Vec::new();
        let listings = [
            ("process", "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null; echo; done"),
            ("mount", "cut -d' ' -f5 /proc/1/mountinfo"),
            ("cgroup", "find /sys/fs/cgroup -type d"),
            (
                "file",
                "find /run/containerd /run/belljar /var/lib/belljar /run/netns /var/lib/cni /tmp -xdev 2>/dev/null",
            ),
            ("socket", "cut -c54- /proc/net/unix"),
        ];
        for (what, script) in listings {
            let list = cluster.shell(script).stdout;
            let known = list.lines().filter(|line| sandboxes.iter().any(|id| line.contains(id.as_str())));
            found.extend(known.map(|line| format!("{what} {line}")));
        }
        Self(found)
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The folder of the shim's layer store, full to the last byte, for pods that start now.
#[derive(Debug)]
pub struct FullStore<'a> {
    cluster: &'a Cluster,
}

impl<'a> FullStore<'a> {
    /// Covers the store with a small file system that is full.
    pub fn new(cluster: &'a Cluster) -> Self {
        let done = cluster.shell(
            "mkdir -p /var/lib/belljar/store && mount -t tmpfs -o size=64k none /var/lib/belljar/store && \
             dd if=/dev/zero of=/var/lib/belljar/store/full bs=1k count=64 2>/dev/null; mountpoint -q /var/lib/belljar/store",
        );
        assert_eq!(done.code, 0, "{}", done.stderr);
        Self { cluster }
    }
}

impl Drop for FullStore<'_> {
    fn drop(&mut self) {
        let done = self.cluster.shell("umount -l /var/lib/belljar/store");
        assert_eq!(done.code, 0, "{}", done.stderr);
    }
}
