//! The manifests of `deploy/base`, with what `belljar k8s install` was told.

use aws_lc_rs::digest::{SHA256, digest};

/// Where everything lives that is not of the whole cluster.
pub const NAMESPACE: &str = "belljar-system";
/// The DaemonSet.
pub const DAEMON_SET: &str = "belljar-node";
/// Image of the installer when none is named: of this release, imported into each node's containerd.
pub const IMAGE: &str = concat!("localhost/belljar-node:", env!("CARGO_PKG_VERSION"));

const BASE: [&str; 3] = [
    include_str!("../../../../deploy/base/namespace.yaml"),
    include_str!("../../../../deploy/base/rbac.yaml"),
    include_str!("../../../../deploy/base/daemonset.yaml"),
];
/// The RuntimeClasses, which go first when all is taken away.
pub const RUNTIME_CLASSES: &str = include_str!("../../../../deploy/base/runtimeclasses.yaml");
const OPTIONS: &str = "            # further options: see `belljar node daemon --help`\n";
const GENERATION: &str = "              value: manual\n";
const IMAGE_LINE: &str = "          image: localhost/belljar-node:0.1.0\n";

/// What an installation is made of.
#[derive(Debug, Clone)]
pub struct Rendered {
    /// Everything but the RuntimeClasses.
    pub base: String,
    /// Names the installation: nodes tell it, once they have carried it out.
    pub generation: String,
}

/// The manifests with that image, and these further arguments of the DaemonSet's program.
pub fn render(image: &str, arguments: &[String]) -> Rendered {
    let mut options = String::new();
    for argument in arguments {
        // JSON strings are YAML strings
        options.push_str(&format!("            - {}\n", serde_json::Value::from(argument.as_str())));
    }
    let image = format!("          image: {}\n", serde_json::Value::from(image));
    let base = BASE.join("---\n").replacen(OPTIONS, &options, 1).replacen(IMAGE_LINE, &image, 1);
    let hash = digest(&SHA256, base.as_bytes());
    let generation: String = hex::encode(hash).chars().take(12).collect();
    // quoted: twelve digits would be a number
    let base = base.replacen(GENERATION, &format!("              value: \"{generation}\"\n"), 1);
    Rendered { base, generation }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_is_there_once_and_filled() {
        let whole = BASE.join("---\n");
        for place in [OPTIONS, GENERATION, IMAGE_LINE] {
            assert_eq!(whole.matches(place).count(), 1, "{place}");
        }
        assert!(IMAGE_LINE.contains(IMAGE), "deploy/base/daemonset.yaml names another release");
        let plain = render(IMAGE, &[]);
        let other = render("r/\"x\": y", &["--software".to_owned(), "--broker=https://h:1".to_owned()]);
        assert!(other.base.contains("          image: \"r/\\\"x\\\": y\"\n"));
        assert!(other.base.contains("            - daemon\n            - \"--software\"\n            - \"--broker=https://h:1\"\n          env:\n"));
        assert!(other.base.contains(&format!("value: \"{}\"", other.generation)));
        assert_ne!(plain.generation, other.generation);
        assert_eq!(render(IMAGE, &[]).base, plain.base);
    }

    #[test]
    fn a_runtime_class_for_each_handler() {
        for handler in belljar_node::HANDLERS {
            let lines = format!("handler: {}\n", handler.name);
            assert_eq!(RUNTIME_CLASSES.matches(&lines).count(), 1, "{lines}");
            assert!(RUNTIME_CLASSES.contains(&format!("runtime.belljar.dev/{}: \"true\"\n", handler.name)));
        }
    }
}
