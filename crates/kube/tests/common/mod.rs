//! An image that needs no registry, and manifests around one container.
#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use belljar_contract::Layer;
use belljar_kube::{Generated, Images, KubeError, Manifest, Options, ResolvedImage, Source};
use oci_spec::image::ImageConfiguration;

/// Digest of every image here.
pub const DIGEST: &str = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// An image with this user.
pub fn image(user: &str) -> ResolvedImage {
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}},
            "config":{{"User":"{user}","Entrypoint":["/bin/app"],"Cmd":["serve"],"Env":["PATH=/bin","MODE=image"],"WorkingDir":"/srv"}}}}"#
    );
    let layer = Layer { verity_root: "ab".repeat(32), salt: "cd".repeat(32), data_blocks: 7 };
    let config = ImageConfiguration::from_reader(config.as_bytes()).unwrap();
    ResolvedImage { digest: DIGEST.to_owned(), config, layers: vec![layer] }
}

/// Images that manifests of tests name: `img:1`, and `user:1` whose user is `app`.
pub fn images() -> Images {
    let mut images = Images::new();
    for name in ["img:1".to_owned(), format!("img:1@{DIGEST}")] {
        images.insert(name, Ok(image("")));
    }
    images.insert("named:1".to_owned(), Ok(image("app")));
    images.insert("numbered:1".to_owned(), Ok(image("1000:1000")));
    images.insert("gone:1".to_owned(), Err("it is not there".to_owned()));
    images
}

/// Generation with ConfigMap `hosts` and Secret `hosts` left to the host.
pub fn options() -> Options {
    Options {
        host_provided: [(Source::ConfigMap, "hosts".to_owned()), (Source::Secret, "hosts".to_owned())].into(),
        ..Options::default()
    }
}

/// Contracts of a manifest, or its problems in words.
pub fn generate(yaml: &str) -> Result<Generated, Vec<String>> {
    let manifest = Manifest::parse(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    manifest.generate(&images(), &options()).map_err(|error| match error {
        KubeError::Problems(problems) => problems.iter().map(ToString::to_string).collect(),
        error => panic!("{error}"),
    })
}

/// A pod with one container, further lines of its spec and of its container, and documents beside it.
pub fn pod(spec: &str, container: &str) -> String {
    let indent = |text: &str, by: &str| text.lines().map(|line| format!("{by}{line}\n")).collect::<String>();
    let image = if container.starts_with("image:") { "" } else { "    image: img:1\n" };
    let token =
        if spec.contains("automountServiceAccountToken") { "" } else { "  automountServiceAccountToken: false\n" };
    let links = if spec.contains("enableServiceLinks") { "" } else { "  enableServiceLinks: false\n" };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: demo, namespace: team, labels: {{app: web}}, \
         annotations: {{note: hi, belljar.dev/logs: allow}}}}\nspec:\n{token}{links}{}  containers:\n  - name: main\n{image}{}",
        indent(spec, "  "),
        indent(container, "    ")
    )
}

/// Objects beside a pod.
pub const BESIDE: &str = "---
apiVersion: v1
kind: ConfigMap
metadata: {name: conf, namespace: team}
data: {greeting: hello, app.toml: \"a = 1\\n\"}
binaryData: {blob: AAEC}
---
apiVersion: v1
kind: Secret
metadata: {name: keys, namespace: team}
data: {key: aHVudGVyMg==}
stringData: {plain: text}
";

/// The contract of a pod, in canonical TOML.
pub fn contract(spec: &str, container: &str) -> String {
    let yaml = pod(spec, container) + BESIDE;
    let generated = generate(&yaml).unwrap_or_else(|problems| panic!("{problems:#?}\n{yaml}"));
    generated.workloads[0].contract.to_toml()
}

/// The problems of a pod, without lines and without the object.
pub fn problems(spec: &str, container: &str) -> Vec<String> {
    let yaml = pod(spec, container) + BESIDE;
    let found = generate(&yaml).err().unwrap_or_else(|| panic!("no problem in\n{yaml}"));
    found
        .into_iter()
        .map(|problem| {
            let (_, rest) = problem.split_once("Pod demo: ").unwrap_or_else(|| panic!("{problem}"));
            rest.to_owned()
        })
        .collect()
}
