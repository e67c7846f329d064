//! Each field that a contract takes over, with a twin that differs in one thing and is refused with the exact words.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use common::{contract, generate, pod, problems};

/// The contract has all these lines.
#[track_caller]
fn honoured(spec: &str, container: &str, expected: &[&str]) {
    let toml = contract(spec, container);
    for line in expected {
        assert!(toml.lines().any(|found| found.trim() == *line), "no line {line:?} in\n{toml}");
    }
}

/// The contract has no line with this text.
#[track_caller]
fn absent(spec: &str, container: &str, text: &str) {
    let toml = contract(spec, container);
    assert!(!toml.contains(text), "{text:?} is in\n{toml}");
}

/// This and no other problem.
#[track_caller]
fn refused(spec: &str, container: &str, expected: &str) {
    assert_eq!(problems(spec, container), [expected], "{spec}\n{container}");
}

const MAIN: &str = "spec.containers[0]";

#[test]
fn commands_and_arguments() {
    honoured("", "", &[r#"args = ["/bin/app", "serve"]"#]);
    honoured("", "args: [x]", &[r#"args = ["/bin/app", "x"]"#]);
    honoured("", "command: [/bin/sh]", &[r#"args = ["/bin/sh"]"#]);
    honoured(
        "",
        "command: [/bin/sh]\nargs: [-c, 'echo $$(A) $(B) $(date)']",
        &[r#"args = ["/bin/sh", "-c", "echo $(A) $(B) $(date)"]"#],
    );
    let env = "env:\n- {name: A, value: '1'}\n- {name: B, value: $(A)$(A)}\n";
    honoured("", &format!("{env}args: ['$(B)']"), &[r#"args = ["/bin/app", "11"]"#, r#"B = "11""#]);
    let host = "env:\n- {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}\n";
    refused(
        "",
        &format!("{host}args: ['$(IP)']"),
        "spec.containers[0].args[0] refers to $(IP), whose value comes from the host, so the text cannot be fixed: \
         let the program read the variable, or write the value",
    );
    refused(
        "",
        "args: ['$(WEB_SERVICE_HOST)']",
        "spec.containers[0].args[0] refers to $(WEB_SERVICE_HOST), whose value comes from the host, so the text cannot be \
         fixed: let the program read the variable, or write the value",
    );
    refused("", "command: [1]", "spec.containers[0].command[0] is a number, expected a string");
    honoured("", "workingDir: /tmp/./x", &[r#"cwd = "/tmp/x""#]);
    refused("", "workingDir: 1", "spec.containers[0].workingDir is a number, expected a string");
}

#[test]
fn environment() {
    honoured("", "env: [{name: MODE, value: yaml}]", &[r#"MODE = "yaml""#, r#"PATH = "/bin""#, r#"HOSTNAME = "demo""#]);
    honoured("", "env: [{name: A}]", &[r#"A = """#]);
    refused("", "env: [{name: A, value: yes}]", &format!("{MAIN}.env[0].value is a boolean, expected a string"));
    refused("", "env: [{value: a}]", &format!("{MAIN}.env[0].name is missing: name the variable"));
    let field = |path: &str| format!("env: [{{name: A, valueFrom: {{fieldRef: {{fieldPath: \"{path}\"}}}}}}]");
    for (path, line) in [
        ("metadata.name", r#"A = "demo""#),
        ("metadata.namespace", r#"A = "team""#),
        ("metadata.uid", r#"A = "uuid""#),
        ("metadata.labels['app']", r#"A = "web""#),
        ("metadata.annotations['note']", r#"A = "hi""#),
        ("spec.nodeName", r#"A = "dns-name""#),
        ("spec.serviceAccountName", r#"A = "default""#),
        ("status.podIP", r#"A = "ip""#),
        ("status.podIPs", r#"A = "ip-list""#),
        ("status.hostIP", r#"A = "ip""#),
        ("status.hostIPs", r#"A = "ip-list""#),
        ("metadata.labels['pod-template-hash']", r#"A = "dns-label""#),
    ] {
        honoured("", &field(path), &[line]);
    }
    refused(
        "",
        &field("metadata.labels['other']"),
        &format!(
            "{MAIN}.env[0].valueFrom.fieldRef.fieldPath is metadata.labels['other'], and the pod template has no such key: \
             add it to metadata.labels of the template"
        ),
    );
    assert!(
        problems("", &field("metadata.labels"))[0].contains("fieldPath is \"metadata.labels\", expected metadata.name")
    );
}

#[test]
fn config_maps_and_secrets_in_the_environment() {
    let key = |kind: &str, name: &str, key: &str| {
        format!("env: [{{name: A, valueFrom: {{{kind}: {{name: {name}, key: {key}}}}}}}]")
    };
    honoured("", &key("configMapKeyRef", "conf", "greeting"), &[r#"A = "hello""#]);
    let hunter2 = "f52fbd32b2b3b86ff88ef6c490628285f482af15ddcb29541f94bcf526a3f6c7";
    honoured("", &key("secretKeyRef", "keys", "key"), &[&format!(r#"A = "sha256:{hunter2}""#)]);
    absent("", &key("secretKeyRef", "keys", "key"), "hunter2");
    let at = format!("{MAIN}.env[0].valueFrom");
    refused(
        "",
        &key("configMapKeyRef", "conf", "gone"),
        &format!(
            "{at}.configMapKeyRef names a key that is not in ConfigMap \"conf\" of the manifest: add \"gone\" there, or remove the variable"
        ),
    );
    refused(
        "",
        &key("secretKeyRef", "gone", "key"),
        &format!(
            "{at}.secretKeyRef names Secret \"gone\", which is not in the manifest, so its content cannot be measured: give it \
             along with -f, or let the host choose its content with --host-provided secret/gone"
        ),
    );
    honoured("", &key("configMapKeyRef", "hosts", "x"), &[r#"A = "any""#]);
    let from = |kind: &str, name: &str| format!("envFrom: [{{prefix: P_, {kind}: {{name: {name}}}}}]");
    honoured("", &from("configMapRef", "conf"), &[r#"P_greeting = "hello""#, r#""P_app.toml" = "a = 1\n""#]);
    honoured("", &from("secretRef", "keys"), &[&format!(r#"P_key = "sha256:{hunter2}""#)]);
    refused(
        "",
        &from("configMapRef", "hosts"),
        &format!(
            "{MAIN}.envFrom[0].configMapRef takes all keys of ConfigMap \"hosts\", which is not in the manifest, so their names \
             are not known: give it along"
        ),
    );
    // A variable of its own wins over envFrom.
    honoured(
        "",
        "envFrom: [{configMapRef: {name: conf}}]\nenv: [{name: greeting, value: own}]",
        &[r#"greeting = "own""#],
    );
}

#[test]
fn resources_as_limits_and_values() {
    let limits = "resources: {limits: {cpu: 1500m, memory: 64Mi, ephemeral-storage: 32Mi}, requests: {cpu: 1}}";
    honoured("", limits, &["resources = { memory_bytes = 67108864, cpu_millis = 1500 }", "scratch_bytes = 33554432"]);
    let field = |inner: &str| format!("{limits}\nenv: [{{name: A, valueFrom: {{resourceFieldRef: {inner}}}}}]");
    honoured("", &field("{resource: limits.memory, divisor: 1Mi}"), &[r#"A = "64""#]);
    honoured("", &field("{resource: limits.cpu}"), &[r#"A = "2""#]);
    honoured("", &field("{resource: limits.cpu, divisor: 1m}"), &[r#"A = "1500""#]);
    honoured("", &field("{resource: requests.memory}"), &[r#"A = "67108864""#]);
    refused(
        "",
        "env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.memory}}}]",
        &format!(
            "{MAIN}.env[0].valueFrom.resourceFieldRef.resource is limits.memory, which the container does not set, so it would \
             be what the node has: set it"
        ),
    );
    refused(
        "",
        "resources: {limits: {memory: 64MB}}",
        &format!("{MAIN}.resources.limits.memory is \"64MB\", expected a quantity such as 500m or 64Mi"),
    );
    refused(
        "",
        "resources: {limits: {nvidia.com/gpu: 1}}",
        &format!(
            "{MAIN}.resources.limits['nvidia.com/gpu'] is not honoured: devices and other resources of the node cannot be given \
             to a pod VM; remove it"
        ),
    );
    refused(
        "",
        "resources: {limits: {hugepages-2Mi: 4Mi}}",
        &format!(
            "{MAIN}.resources.limits.hugepages-2Mi is not honoured: a pod VM has no huge pages to give; remove it"
        ),
    );
}

#[test]
fn volumes_of_each_kind() {
    let mount = "volumeMounts: [{name: v, mountPath: /v}]";
    let volume = |kind: &str| format!("volumes: [{{name: v, {kind}}}]");
    let greeting = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    honoured(
        &volume("emptyDir: {sizeLimit: 16Mi, medium: Memory}"),
        mount,
        &["[volumes.v]", r#"kind = "scratch""#, "size_bytes = 16777216", r#"{ volume = "v", path = "/v" },"#],
    );
    honoured(
        &volume("configMap: {name: conf, defaultMode: 0600, items: [{key: greeting, path: d/g, mode: 0400}]}"),
        mount,
        &[
            r#"kind = "measured""#,
            &format!(r#""d/g" = {{ sha256 = "{greeting}", mode = 0o400 }}"#),
            r#"{ volume = "v", path = "/v", read_only = true },"#,
        ],
    );
    honoured(&volume("secret: {secretName: keys}"), mount, &[r#"kind = "measured""#]);
    absent(&volume("secret: {secretName: keys}"), mount, "hunter2");
    honoured(&volume("configMap: {name: hosts}"), mount, &[r#"kind = "host""#, "others = true"]);
    honoured(
        &volume("configMap: {name: hosts, optional: true, items: [{key: k, path: p}]}"),
        mount,
        &[r#"kind = "host""#, r#"p = { type = "any", optional = true }"#],
    );
    honoured(
        &volume(
            "projected: {sources: [{serviceAccountToken: {path: token, expirationSeconds: 600, audience: x}}, \
             {configMap: {name: kube-root-ca.crt}}, {configMap: {name: conf, items: [{key: greeting, path: g}]}}, \
             {downwardAPI: {items: [{path: ns, fieldRef: {fieldPath: metadata.namespace}}, \
             {path: ip, fieldRef: {fieldPath: status.podIP}}]}}]}",
        ),
        mount,
        &[
            r#"kind = "host""#,
            r#"token = { type = "token" }"#,
            r#""ca.crt" = { type = "certificates" }"#,
            &format!(r#"g = {{ type = "sha256:{greeting}" }}"#),
            r#"ip = { type = "ip" }"#,
            r#"KUBERNETES_SERVICE_HOST = "ip""#,
        ],
    );
    honoured(
        &volume("downwardAPI: {items: [{path: l, fieldRef: {fieldPath: metadata.labels}}]}"),
        mount,
        &[r#"l = { type = "any" }"#],
    );
    honoured(
        &volume("downwardAPI: {items: [{path: m, resourceFieldRef: {containerName: main, resource: limits.memory}}]}"),
        &format!("{mount}\nresources: {{limits: {{memory: 64Mi}}}}"),
        &[r#"kind = "measured""#],
    );
    // One that nobody mounts has no meaning.
    absent(&volume("emptyDir: {}"), "", "volumes");
    let at = "spec.volumes[0]";
    refused(
        &volume("hostPath: {path: /}"),
        mount,
        &format!(
            "{at}.hostPath is not honoured: a pod VM shares no files with its host; use emptyDir, a ConfigMap or a Secret"
        ),
    );
    refused(
        &volume("persistentVolumeClaim: {claimName: c}"),
        mount,
        &format!(
            "{at}.persistentVolumeClaim is not honoured: its data would lie in the host's hands; use emptyDir, or an encrypted store \
         over the network"
        ),
    );
    refused(
        &volume("emptyDir: {medium: HugePages}"),
        mount,
        &format!(
            "{at}.emptyDir.medium is not honoured: emptyDir is in the pod VM's memory, without huge pages; remove it or write Memory"
        ),
    );
    refused(
        &volume("newKind: {}"),
        mount,
        &format!("{at}.newKind is not honoured: this Belljar does not know such a field; remove it"),
    );
    refused(
        &volume("configMap: {name: gone}"),
        mount,
        &format!(
            "{at}.configMap.name names ConfigMap \"gone\", which is not in the manifest, so its content cannot be measured: give it \
         along with -f, or let the host choose its content with --host-provided configmap/gone"
        ),
    );
    refused(
        &volume("configMap: {name: conf, items: [{key: gone, path: g}]}"),
        mount,
        &format!(
            "{at}.configMap.name names ConfigMap \"conf\", which has no key \"gone\" in the manifest: add it, or remove the item"
        ),
    );
    refused(
        &volume("configMap: {name: conf, items: [{key: greeting, path: ../g}]}"),
        mount,
        &format!(
            "{at}.configMap.items[0].path is \"../g\", expected a path inside the volume: relative, without `.` and `..`"
        ),
    );
    refused(
        "securityContext: {fsGroup: 7}\nvolumes: [{name: v, secret: {secretName: keys, defaultMode: 0400}}]",
        mount,
        &format!(
            "{at}.secret.defaultMode is not honoured: with fsGroup the files would belong to that group, and in a pod VM they \
             belong to root, so mode 0400 would keep the group out; write 0444"
        ),
    );
}

#[test]
fn mounts() {
    let volume = "volumes: [{name: v, emptyDir: {}}]";
    let mount = |rest: &str| format!("volumeMounts: [{{name: v, {rest}}}]");
    honoured(
        volume,
        &mount("mountPath: /v/, readOnly: true, subPath: a/b, mountPropagation: None"),
        &[r#"{ volume = "v", path = "/v", sub_path = "a/b", read_only = true },"#],
    );
    let at = format!("{MAIN}.volumeMounts[0]");
    for (rest, problem) in [
        (
            "mountPath: /v, subPathExpr: $(A)",
            "subPathExpr is not honoured: the path would depend on values that the host gives; write the path itself as subPath",
        ),
        (
            "mountPath: /v, mountPropagation: Bidirectional",
            "mountPropagation is not honoured: mounts of the host do not reach into a pod VM; remove it",
        ),
        (
            "mountPath: /v, subPath: ../x",
            "subPath is \"../x\", expected a path inside the volume: relative, without `.` and `..`",
        ),
        ("mountPath: v", "mountPath is \"v\", expected an absolute path without `.`, `..` and `//`"),
        (
            "mountPath: /proc/x",
            "mountPath is not honoured: /proc belongs to the kernel; mount the volume somewhere else",
        ),
        (
            "mountPath: /dev/shm",
            "mountPath is not honoured: /dev/shm is there in each container, with 64 MiB; mount the volume somewhere else, or remove it",
        ),
        ("mountPath: /", "mountPath is not honoured: a volume cannot replace the root file system"),
    ] {
        refused(volume, &mount(rest), &format!("{at}.{problem}"));
    }
    refused("", &mount("mountPath: /v"), &format!("{at}.name is \"v\", expected the name of one of the pod's volumes"));
    refused(
        "",
        "volumeDevices: [{name: v, devicePath: /dev/x}]",
        &format!(
            "{MAIN}.volumeDevices is not honoured: a block device's data would lie in the host's hands; use emptyDir"
        ),
    );
}

#[test]
fn the_service_account() {
    let automatic = "automountServiceAccountToken: true";
    honoured(
        automatic,
        "",
        &[
            "[volumes.service-account]",
            r#"token = { type = "token" }"#,
            r#""ca.crt" = { type = "certificates" }"#,
            r#"namespace = { type = "dns-label" }"#,
            r#"{ volume = "service-account", path = "/var/run/secrets/kubernetes.io/serviceaccount", read_only = true },"#,
            r#"KUBERNETES_SERVICE_HOST = "ip""#,
            r#"KUBERNETES_SERVICE_PORT = "port""#,
            r#"KUBERNETES_PORT = "endpoint""#,
        ],
    );
    absent("automountServiceAccountToken: false", "", "service-account");
    absent("automountServiceAccountToken: false", "", "KUBERNETES");
    refused(
        "automountServiceAccountToken: nope",
        "",
        "spec.automountServiceAccountToken is a string, expected a boolean",
    );
    // An account beside the pod may say it as well.
    let account = |automount: bool| {
        let yaml = pod("automountServiceAccountToken: null\nserviceAccountName: robot", "");
        let account = "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: robot, namespace: team}\n";
        let generated = generate(&format!("{yaml}{account}automountServiceAccountToken: {automount}\n")).unwrap();
        generated.workloads[0].has_token
    };
    assert!(account(true));
    assert!(!account(false));
}

#[test]
fn users_and_groups() {
    honoured("securityContext: {runAsUser: 5, runAsGroup: 6}", "", &["user = { uid = 5, gid = 6 }"]);
    honoured("securityContext: {runAsUser: 5}", "", &[r#"user = { name = "5" }"#]);
    honoured("securityContext: {runAsUser: 5}", "securityContext: {runAsUser: 7}", &[r#"user = { name = "7" }"#]);
    honoured("", "image: named:1", &[r#"user = { name = "app" }"#]);
    honoured("", "image: named:1\nsecurityContext: {runAsGroup: 6}", &[r#"user = { name = "app:6" }"#]);
    honoured(
        "securityContext: {supplementalGroups: [8, 3], fsGroup: 4}",
        "",
        &["user = { uid = 0, gid = 0, additional_gids = [3, 4, 8] }"],
    );
    honoured("securityContext: {runAsNonRoot: true}", "image: numbered:1", &["user = { uid = 1000, gid = 1000 }"]);
    refused(
        "securityContext: {runAsNonRoot: true}",
        "",
        &format!("{MAIN}.image runs as root, and runAsNonRoot forbids it: set securityContext.runAsUser"),
    );
    refused(
        "securityContext: {runAsNonRoot: true}",
        "image: named:1",
        &format!(
            "{MAIN}.image runs as user \"app\", whose number is only known in the guest, so runAsNonRoot cannot be kept: set \
         securityContext.runAsUser"
        ),
    );
    refused(
        "",
        "securityContext: {runAsNonRoot: true, runAsUser: 0}",
        &format!(
            "{MAIN}.securityContext.runAsNonRoot asks for another user than root, and runAsUser is 0: change one of them"
        ),
    );
    refused(
        "",
        "securityContext: {runAsUser: -1}",
        &format!("{MAIN}.securityContext.runAsUser is \"-1\", expected 0 to 2147483647"),
    );
}

#[test]
fn capabilities_and_privileges() {
    let with = |text: &str| format!("securityContext: {{{text}}}");
    honoured(
        "",
        "",
        &[
            r#"capabilities = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID"]"#,
        ],
    );
    honoured(
        "",
        &with("capabilities: {drop: [ALL], add: [NET_RAW, cap_chown]}"),
        &[r#"capabilities = ["CAP_CHOWN", "CAP_NET_RAW"]"#],
    );
    honoured(
        "",
        &with("capabilities: {drop: [CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL]}"),
        &[r#"capabilities = ["CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID"]"#],
    );
    absent("", &with("runAsUser: 5, runAsGroup: 5"), "capabilities");
    refused(
        "",
        &with("capabilities: {add: [ALL]}"),
        &format!(
            "{MAIN}.securityContext.capabilities.add[0] is not honoured: all capabilities could take over the pod VM; name those that \
         it needs"
        ),
    );
    refused(
        "",
        &with("capabilities: {add: [NET_ROW]}"),
        &format!(
            "{MAIN}.securityContext.capabilities.add[0] is \"NET_ROW\", expected a capability such as NET_BIND_SERVICE"
        ),
    );
    honoured("", &with("allowPrivilegeEscalation: true"), &["no_new_privileges = false"]);
    absent("", &with("allowPrivilegeEscalation: false"), "no_new_privileges");
    honoured("", &with("readOnlyRootFilesystem: true"), &["read_only_root = true"]);
    absent("", &with("privileged: false"), "privileged");
    refused(
        "",
        &with("privileged: true"),
        &format!(
            "{MAIN}.securityContext.privileged is not honoured: a privileged container could take over its pod VM; name the \
         capabilities that it needs"
        ),
    );
    absent("", &with("seccompProfile: {type: RuntimeDefault}, procMount: Default"), "seccomp");
    let seccomp = "is not honoured: the guest always filters system calls by Belljar's own profile; write type RuntimeDefault, or remove it";
    for profile in ["{type: Unconfined}", "{type: Localhost, localhostProfile: x}"] {
        refused(
            "",
            &with(&format!("seccompProfile: {profile}")),
            &format!("{MAIN}.securityContext.seccompProfile.type {seccomp}"),
        );
    }
    refused(
        "",
        &with("procMount: Unmasked"),
        &format!("{MAIN}.securityContext.procMount is not honoured: /proc is masked as with Default; remove it"),
    );
    refused(
        "",
        &with("seLinuxOptions: {level: s0}"),
        &format!("{MAIN}.securityContext.seLinuxOptions is not honoured: the guest has no SELinux; remove it"),
    );
    honoured(
        "securityContext: {sysctls: [{name: net.ipv4.tcp_syncookies, value: '1'}]}",
        "",
        &[r#""net.ipv4.tcp_syncookies" = "1""#],
    );
    assert!(problems("securityContext: {sysctls: [{name: kernel.msgmax, value: '1'}]}", "")[0].starts_with(
        "spec.securityContext.sysctls[0].name is not honoured: only these can be set: kernel.shm_rmid_forced, "
    ));
}

#[test]
fn probes_and_hooks() {
    let exec = |key: &str| format!("{key}: {{exec: {{command: [check, '$(A)', '$(IP)', '$(B)']}}, periodSeconds: 5}}");
    let env = "env: [{name: A, value: a$$}, {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]\n";
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        // The kubelet puts in the values as they are written, and nothing for those that are not.
        honoured("", &format!("{env}{}", exec(key)), &[r#"["check", "a$$", "", "$(B)"],"#]);
    }
    for hook in ["postStart", "preStop"] {
        honoured("", &format!("lifecycle: {{{hook}: {{exec: {{command: [bye, '$(A)']}}}}}}"), &[r#"["bye", "$(A)"],"#]);
    }
    absent(
        "",
        "livenessProbe: {httpGet: {port: 80, path: /, httpHeaders: [{name: a, value: b}]}, timeoutSeconds: 1}",
        "exec",
    );
    absent("", "livenessProbe: {tcpSocket: {port: web}}\nreadinessProbe: {grpc: {port: 5}}", "exec");
    absent("", "lifecycle: {preStop: {sleep: {seconds: 5}}, postStart: {httpGet: {port: 1}}}", "exec");
    refused(
        "",
        "livenessProbe: {periodSeconds: 1}",
        &format!("{MAIN}.livenessProbe.exec is missing: say what to do: httpGet, tcpSocket, grpc or exec"),
    );
    refused(
        "",
        "livenessProbe: {exec: {command: [a]}, tcpSocket: {port: 1}}",
        &format!("{MAIN}.livenessProbe does more than one thing: leave one of them"),
    );
    refused(
        "",
        "lifecycle: {stopSignal: SIGINT}",
        &format!(
            "{MAIN}.lifecycle.stopSignal is not honoured: a container ends with the signal that the kubelet sends, TERM; remove it"
        ),
    );
    refused(
        "",
        "lifecycle: {postStart: {exec: {command: [a], user: 0}}}",
        &format!(
            "{MAIN}.lifecycle.postStart.exec.user is not honoured: this Belljar does not know such a field; remove it"
        ),
    );
}

#[test]
fn names_and_name_resolution() {
    honoured("", "", &[r#"network = "host""#, r#"dns = "host""#, r#"hostname = "demo""#]);
    honoured("hostname: other", "", &[r#"hostname = "other""#, r#"HOSTNAME = "other""#]);
    refused(
        "hostname: a.b",
        "",
        "spec.hostname makes \"a.b\" the pod's host name, which must be a DNS label: set \
                                  spec.hostname to a name without dots",
    );
    honoured("hostAliases: [{ip: 10.0.0.1, hostnames: [a, b.c]}]", "", &[r#""10.0.0.1" = ["a", "b.c"]"#]);
    refused("hostAliases: [{ip: x, hostnames: [a]}]", "", "spec.hostAliases[0].ip is \"x\", expected an IP address");
    honoured("dnsPolicy: Default", "", &[r#"dns = "host""#]);
    let config =
        "dnsConfig: {nameservers: [1.1.1.1], searches: [a.b], options: [{name: ndots, value: '2'}, {name: edns0}]}";
    let toml = contract(&format!("dnsPolicy: None\n{config}"), "");
    assert!(toml.contains("1.1.1.1") && toml.contains("ndots:2") && toml.contains("edns0"), "{toml}");
    refused("dnsPolicy: None", "", "spec.dnsConfig is missing: dnsPolicy None needs nameservers here");
    refused(
        "dnsPolicy: ClusterFirstWithHostNet",
        "",
        "spec.dnsPolicy is not honoured: a pod VM has no part in the host's \
                                                       network; write ClusterFirst",
    );
    honoured(
        "",
        "ports: [{containerPort: 80}, {containerPort: 53, protocol: UDP}, {containerPort: 81, name: x, hostPort: 1}]",
        &["ports = [80, 81]"],
    );
    refused(
        "",
        "ports: [{containerPort: 70000}]",
        &format!("{MAIN}.ports[0].containerPort is \"70000\", expected 1 to 65535"),
    );
    honoured("enableServiceLinks: true", "", &["service_links = true"]);
    absent("enableServiceLinks: false", "", "service_links");
    // A pod with a token knows the API server; with links it is one of them.
    let token = "automountServiceAccountToken: true\nenableServiceLinks: ";
    honoured(&format!("{token}false"), "", &[r#"KUBERNETES_SERVICE_HOST = "ip""#]);
    absent(&format!("{token}true"), "", r#"KUBERNETES_SERVICE_HOST = "ip""#);
}

#[test]
fn streams() {
    honoured("", "stdin: true\ntty: true", &[r#"stdin = "allow""#, "terminal = true"]);
    absent("", "stdin: false", "stdin");
    honoured(
        "",
        "terminationMessagePath: /dev/termination-log\nterminationMessagePolicy: FallbackToLogsOnError",
        &[r#"logs = "allow""#],
    );
    refused(
        "",
        "terminationMessagePath: /tmp/x",
        &format!(
            "{MAIN}.terminationMessagePath is not honoured: the message is read from /dev/termination-log; remove it"
        ),
    );
}

#[test]
fn restarts_and_init_containers() {
    honoured("", "", &[r#"restart = "always""#]);
    honoured("restartPolicy: OnFailure", "", &[r#"restart = "on-failure""#]);
    absent("restartPolicy: Never", "", "restart");
    refused(
        "restartPolicy: Sometimes",
        "",
        "spec.restartPolicy is \"Sometimes\", expected one of Always, OnFailure, Never",
    );
    let init = "initContainers: [{name: b, image: img:1}, {name: a, image: img:1}]";
    let toml = contract(init, "");
    let section = |name: &str| {
        let (_, rest) = toml.split_once(&format!("[containers.{name}]\n")).unwrap();
        rest.split("\n[").next().unwrap().to_owned()
    };
    assert!(section("b").contains("init = 1\n") && section("b").contains("restart = \"on-failure\""), "{toml}");
    assert!(section("a").contains("init = 2\n"), "{toml}");
    assert!(!section("main").contains("init ="), "{toml}");
    refused(
        "initContainers: [{name: a, image: img:1, restartPolicy: Always}]",
        "",
        "spec.initContainers[0].restartPolicy is \
        not honoured: init containers that go on running (sidecars) are not supported by this version; make it an ordinary container",
    );
    refused(
        "initContainers: [{name: main, image: img:1}]",
        "",
        "spec.containers[0] is \"main\", expected a name that no other \
        container has",
    );
    refused("initContainers: [{image: img:1}]", "", "spec.initContainers[0].name is missing: name the container");
}

#[test]
fn fields_of_the_host_are_refused() {
    for (field, why) in belljar_kube::plan::REFUSED {
        let value = if field.starts_with("host") || field.starts_with("share") || field.starts_with("set") {
            "true"
        } else {
            "[{a: b}]"
        };
        refused(&format!("{field}: {value}"), "", &format!("spec.{field} is not honoured: {why}"));
        let nothing = if value == "true" { "false" } else { "[]" };
        absent(&format!("{field}: {nothing}"), "", field);
    }
    absent("hostUsers: true", "", "hostUsers");
    refused(
        "hostUsers: false",
        "",
        "spec.hostUsers is not honoured: a pod VM has a kernel of its own, whose users are not the \
                                     host's; remove it",
    );
    absent("runtimeClassName: belljar-snp", "", "snp");
    refused(
        "runtimeClassName: runc",
        "",
        "spec.runtimeClassName is not honoured: its pods would run without a pod VM; remove it, \
                                           or write belljar",
    );
    for (field, why) in belljar_kube::volumes::REFUSED_VOLUMES {
        refused(
            &format!("volumes: [{{name: v, {field}: {{a: b}}}}]"),
            "",
            &format!("spec.volumes[0].{field} is not honoured: {why}"),
        );
    }
    refused("os: {name: windows}", "", "spec.os.name is \"windows\", expected one of linux");
}

#[test]
fn fields_of_the_cluster_are_taken() {
    let plain = contract("", "");
    for (field, _) in belljar_kube::plan::CLUSTER {
        assert_eq!(contract(&format!("{field}: {{any: thing}}"), ""), plain, "{field}");
    }
    for (field, _) in belljar_kube::container::CLUSTER {
        assert_eq!(contract("", &format!("{field}: Always")), plain, "{field}");
    }
    refused(
        "nodeSelectors: {a: b}",
        "",
        "spec.nodeSelectors is not honoured: this Belljar does not know such a field; remove it",
    );
}

#[test]
fn images() {
    honoured(
        "",
        "",
        &[&format!(r#"image = "img:1@{}""#, common::DIGEST), &format!(r#"image_digest = "{}""#, common::DIGEST)],
    );
    refused("", "image: gone:1", &format!("{MAIN}.image names an image that cannot be had: it is not there"));
    refused("", "image: null", &format!("{MAIN}.image is missing: say which image"));
}

#[test]
fn all_problems_are_told_at_once() {
    let found = problems("hostNetwork: true\nwhat: 1", "resources: {limits: {cpu: x}}\nenv: [{name: A, value: 1}]");
    assert_eq!(
        found,
        [
            "spec.hostNetwork is not honoured: a pod VM has a kernel of its own and no part in the host's network; remove it",
            "spec.what is not honoured: this Belljar does not know such a field; remove it",
            "spec.containers[0].resources.limits.cpu is \"x\", expected a quantity such as 500m or 64Mi",
            "spec.containers[0].env[0].value is a number, expected a string",
        ]
    );
}
