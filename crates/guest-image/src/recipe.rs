//! What goes into an image: the pinned packages, the kernel's words, the modules. `guest/pins.toml` and `guest/recipe.toml` are
//! compiled in, so an installed `belljar` builds the image that its own version measures.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// What a package is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Purpose {
    /// `vmlinuz`, `vmlinux` and the modules.
    Kernel,
    /// `qboot.rom`
    Qboot,
    /// `OVMF.amdsev.fd`
    OvmfAmdsev,
    /// `OVMF.inteltdx.ms.fd`
    OvmfInteltdx,
}

impl Purpose {
    const ALL: [Self; 4] = [Self::Kernel, Self::Qboot, Self::OvmfAmdsev, Self::OvmfInteltdx];
}

/// One pinned package.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Debian's name of the package.
    pub name: String,
    /// The suite that carries it.
    pub suite: String,
    /// Debian's version, with its epoch.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// SHA-256 of the package file in lowercase hex.
    pub sha256: String,
    /// The source package.
    pub source: String,
    /// What it is there for.
    pub purpose: Purpose,
}

/// The kernel's words, without and with debugging.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandLine {
    /// Always.
    pub base: String,
    /// Added unless debugging is asked for.
    pub quiet: String,
    /// Added when debugging is asked for.
    pub debug: String,
}

impl CommandLine {
    /// The whole line. With `debug` the guest's console speaks and the agent shows more; the measurement is another one.
    pub fn line(&self, debug: bool) -> String {
        format!("{} {}", self.base, if debug { &self.debug } else { &self.quiet })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModuleLists {
    pub(crate) boot: Vec<String>,
    pub(crate) snp: Vec<String>,
    pub(crate) tdx: Vec<String>,
    pub(crate) vsock: Vec<String>,
    pub(crate) net: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InitrdRules {
    pub(crate) directories: Vec<String>,
    pub(crate) max_compressed_bytes: u64,
}

/// Everything that decides an image's bytes, but for the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    pub(crate) packages: Vec<Package>,
    pub(crate) command_line: CommandLine,
    pub(crate) modules: ModuleLists,
    pub(crate) initrd: InitrdRules,
    pub(crate) agent_version: String,
}

/// Why a recipe is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// Not TOML, or a key is missing or unknown.
    #[error("{file} cannot be read: {reason}")]
    Toml {
        /// `pins.toml` or `recipe.toml`.
        file: &'static str,
        /// The parser's words.
        reason: String,
    },
    /// A purpose has no package, or several.
    #[error("pins.toml must have one package for each purpose, but {purpose:?} has {found}")]
    Purpose {
        /// Which one.
        purpose: Purpose,
        /// How many packages it has.
        found: usize,
    },
    /// A value that would be dangerous in a path or in an argument of apt, or a digest that is none.
    #[error("pins.toml: {field} of {package} has the unusable value {value:?}")]
    Value {
        /// The package.
        package: String,
        /// The key.
        field: &'static str,
        /// Its value.
        value: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PinsFile {
    package: Vec<Package>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecipeFile {
    command_line: CommandLine,
    modules: ModuleLists,
    initrd: InitrdRules,
}

impl Recipe {
    /// The recipe of this version of Belljar, whose agent bears the version of this crate.
    pub fn builtin() -> Result<Self, RecipeError> {
        let pins = include_str!("../../../guest/pins.toml");
        let recipe = include_str!("../../../guest/recipe.toml");
        Self::parse(pins, recipe, env!("CARGO_PKG_VERSION"))
    }

    /// A recipe from the text of a `pins.toml` and a `recipe.toml`.
    pub fn parse(pins: &str, recipe: &str, agent_version: &str) -> Result<Self, RecipeError> {
        let toml_error = |file| move |error: toml::de::Error| RecipeError::Toml { file, reason: error.to_string() };
        let PinsFile { package: packages } = toml::from_str(pins).map_err(toml_error("pins.toml"))?;
        let RecipeFile { command_line, modules, initrd } = toml::from_str(recipe).map_err(toml_error("recipe.toml"))?;
        for package in &packages {
            check(package)?;
        }
        for purpose in Purpose::ALL {
            let found = packages.iter().filter(|package| package.purpose == purpose).count();
            if found != 1 {
                return Err(RecipeError::Purpose { purpose, found });
            }
        }
        Ok(Self { packages, command_line, modules, initrd, agent_version: agent_version.to_owned() })
    }

    /// The pinned packages.
    pub fn packages(&self) -> &[Package] {
        &self.packages
    }

    /// The kernel's words.
    pub fn command_line(&self) -> &CommandLine {
        &self.command_line
    }

    pub(crate) fn package(&self, purpose: Purpose) -> Result<&Package, RecipeError> {
        let found = self.packages.iter().find(|package| package.purpose == purpose);
        found.ok_or(RecipeError::Purpose { purpose, found: 0 })
    }

    pub(crate) fn suites<'a>(packages: &[&'a Package]) -> BTreeSet<&'a str> {
        packages.iter().map(|package| package.suite.as_str()).collect()
    }
}

fn check(package: &Package) -> Result<(), RecipeError> {
    let fail =
        |field, value: &str| RecipeError::Value { package: package.name.clone(), field, value: value.to_owned() };
    let fields = [
        ("name", &package.name, "+-."),
        ("suite", &package.suite, "-"),
        ("version", &package.version, "+-.:~"),
        ("architecture", &package.architecture, ""),
        ("source", &package.source, "+-."),
    ];
    for (field, value, marks) in fields {
        let first = value.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric());
        if !first || !value.chars().all(|c| c.is_ascii_alphanumeric() || marks.contains(c)) {
            return Err(fail(field, value));
        }
    }
    if package.sha256.len() != 64 || !package.sha256.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(fail("sha256", &package.sha256));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PINS: &str = include_str!("../../../guest/pins.toml");
    const RECIPE: &str = include_str!("../../../guest/recipe.toml");

    #[test]
    fn the_builtin_recipe_is_whole() {
        let recipe = Recipe::builtin().unwrap();
        assert_eq!(recipe.packages().len(), 4);
        let quiet = recipe.command_line().line(false);
        assert!(quiet.ends_with(" quiet") && quiet.contains("console=hvc0") && quiet.contains("panic=-1"), "{quiet}");
        assert!(!quiet.contains("mitigations") && !quiet.contains("belljar.debug"), "{quiet}");
        let debug = recipe.command_line().line(true);
        assert!(debug.ends_with(" belljar.debug") && !debug.contains("quiet"), "{debug}");
    }

    fn with_pins(from: &str, to: &str) -> Result<Recipe, RecipeError> {
        assert!(from.is_empty() || PINS.contains(from));
        Recipe::parse(&PINS.replacen(from, to, 1), RECIPE, "1")
    }

    #[test]
    fn unusable_pins_are_refused() {
        assert!(with_pins("", "").is_ok());
        let value = |field, value: &str| {
            let package = "qemu-system-data".to_owned();
            Err(RecipeError::Value { package, field, value: value.to_owned() })
        };
        assert_eq!(with_pins("\"1:10.0.2", "\"-o1:10.0.2"), value("version", "-o1:10.0.2+ds-2+deb13u1~bpo12+1"));
        assert_eq!(with_pins("source = \"qemu\"", "source = \"a/b\""), value("source", "a/b"));
        assert!(matches!(with_pins("2d831088", "2D831088"), Err(RecipeError::Value { field: "sha256", .. })));
        let twice = with_pins("purpose = \"ovmf-amdsev\"", "purpose = \"ovmf-inteltdx\"");
        assert_eq!(twice, Err(RecipeError::Purpose { purpose: Purpose::OvmfAmdsev, found: 0 }));
        assert!(matches!(with_pins("source =", "sauce ="), Err(RecipeError::Toml { file: "pins.toml", .. })));
    }

    #[test]
    fn an_unknown_key_of_the_recipe_is_refused() {
        let recipe = format!("{RECIPE}\nshell = true\n");
        assert!(matches!(Recipe::parse(PINS, &recipe, "1"), Err(RecipeError::Toml { file: "recipe.toml", .. })));
    }
}
