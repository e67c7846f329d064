//! containerd's configuration as text: what it says, and our part of it.
//!
//! Our part stands between two marked lines, so that everything else stays byte for byte as its owner wrote it, comments
//! included, and so that taking our part out gives back the former bytes. Before and after, the text must be TOML, and the two must
//! differ in our handlers only.

use toml::{Table, Value};

use crate::handlers::{ANNOTATIONS, HANDLERS, Handler};
use crate::layout::BIN;

const BEGIN: &str =
    "# >>> belljar: written by `belljar node install`, taken out by `belljar node uninstall`; changes in here are lost";
/// Follows [`BEGIN`] when the line before it had no end.
const LINE_END_ADDED: &str = " (and the line end before this)";
const END: &str = "# <<< belljar";
/// A configuration that is longer is refused; usual ones have 10 KiB.
pub(crate) const MAX: u64 = 1 << 20;

/// Why a configuration is refused. The file is named by the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not text.
    #[error("it is not UTF-8 text")]
    NotText,
    /// Not TOML.
    #[error("it is not TOML: {0}; correct it first")]
    NotToml(String),
    /// A version that has other names for everything.
    #[error("it has version {0}, expected 2 or 3; convert it first: `containerd config migrate`")]
    Version(String),
    /// One of our marked lines without the other, or twice.
    #[error("the marked lines of belljar in it are not one pair; take our part out by hand")]
    Markers,
    /// Somebody else's handler has our name.
    #[error("it has a handler {handler:?} that belljar did not write; take it out or rename it")]
    Foreign {
        /// The handler.
        handler: String,
    },
    /// Kubernetes' part of containerd is off.
    #[error("it switches Kubernetes' part of containerd off (disabled_plugins has {plugin:?}); take that out")]
    CriDisabled {
        /// As it is written.
        plugin: String,
    },
    /// The handlers cannot be added behind what is there.
    #[error("our handlers cannot be added to it: {0}; write the runtimes as [tables] and not inside braces")]
    Closed(String),
    /// A value where a table should be.
    #[error("{0} is not a table; correct it first")]
    Shape(String),
    /// The marked part holds more than our handlers.
    #[error("more than belljar's handlers stands between its marked lines; move the rest out of them by hand")]
    Mixed,
    /// An import that cannot be followed.
    #[error("its import {0:?} has a pattern in a folder's name, which is not supported; name the folder")]
    Import(String),
}

/// How the sections are named: the configuration's `version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// containerd 1.x, and 2.x as well.
    Two,
    /// containerd from 2.0 on.
    Three,
}

impl Dialect {
    /// Its `version`.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Two => 2,
            Self::Three => 3,
        }
    }

    /// The plugin that has the runtimes.
    #[must_use]
    pub fn plugin(self) -> &'static str {
        match self {
            Self::Two => "io.containerd.grpc.v1.cri",
            Self::Three => "io.containerd.cri.v1.runtime",
        }
    }
}

/// How a runtime's shim is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// By its path: containerd 1.x takes `runtime_path`, and looks for the shim in its own `PATH` nevertheless.
    Path,
    /// By its type, with `runtime_path` beside it: containerd 2.x.
    Type,
}

impl Naming {
    /// What containerd of that release needs.
    #[must_use]
    pub fn of(release: (u32, u32)) -> Self {
        if release >= (2, 0) { Self::Type } else { Self::Path }
    }

    fn runtime_type(self, handler: &Handler) -> String {
        match self {
            Self::Path => format!("{BIN}/{}", handler.shim),
            Self::Type => handler.runtime_type.to_owned(),
        }
    }
}

/// What a configuration says.
#[derive(Debug, Clone, PartialEq)]
pub struct Configuration {
    /// Everything, our part included.
    pub(crate) table: Table,
    /// `None` when there is nothing but comments and perhaps our part.
    dialect: Option<Dialect>,
    /// The text without our part.
    rest: String,
    /// Where in `rest` our part was, and the part.
    ours: Option<(usize, String)>,
}

impl Configuration {
    /// Reads a configuration, ours or a stranger's.
    ///
    /// # Errors
    /// [`ConfigError`]: no TOML, an unknown version, broken markers, or a handler of our name outside of them.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let table = table(text)?;
        let (rest, ours) = split(text)?;
        let without = self::table(&rest)?;
        for dialect in [Dialect::Two, Dialect::Three] {
            if let Some(foreign) =
                runtimes(&without, dialect)?.and_then(|r| r.keys().find(|name| Handler::is_ours(name)))
            {
                return Err(ConfigError::Foreign { handler: foreign.clone() });
            }
        }
        let dialect = if without.is_empty() { None } else { Some(dialect(&without)?) };
        if let Some((_, part)) = &ours {
            check_part(part, &table, &without)?;
        }
        Ok(Self { table, dialect, rest, ours })
    }

    /// How its sections are named; `None` when it says nothing.
    #[must_use]
    pub fn dialect(&self) -> Option<Dialect> {
        self.dialect
    }

    /// Whether our part is in it.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.ours.is_some()
    }

    /// Whether it says anything about the plugin that has the runtimes, our part aside.
    #[must_use]
    pub fn configures_runtimes(&self, dialect: Dialect) -> bool {
        table(&self.rest)
            .is_ok_and(|t| t.get("plugins").and_then(Value::as_table).is_some_and(|p| p.contains_key(dialect.plugin())))
    }

    /// `imports`, as they are written.
    #[must_use]
    pub fn imports(&self) -> Vec<String> {
        let list = self.table.get("imports").and_then(Value::as_array);
        list.into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    }

    /// Refuses a configuration that switches off Kubernetes' part of containerd.
    ///
    /// # Errors
    /// [`ConfigError::CriDisabled`].
    pub fn check_cri(&self) -> Result<(), ConfigError> {
        let disabled = self.table.get("disabled_plugins").and_then(Value::as_array).into_iter().flatten();
        let names = ["cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"];
        match disabled.filter_map(Value::as_str).find(|name| names.contains(name)) {
            Some(plugin) => Err(ConfigError::CriDisabled { plugin: plugin.to_owned() }),
            None => Ok(()),
        }
    }

    /// The text with our handlers; `fallback` names the sections when the text says nothing by itself. `kept` are further runtimes
    /// that must stand beside ours: containerd 1.x drops its own `runc` as soon as a configuration names any other runtime.
    ///
    /// # Errors
    /// [`ConfigError::Closed`] when the runtimes are written in a way that nothing can be added to.
    pub fn with_handlers(&self, fallback: Dialect, naming: Naming, kept: &Table) -> Result<String, ConfigError> {
        let dialect = self.dialect.unwrap_or(fallback);
        let body = handlers(dialect, naming, self.dialect.is_none(), kept)?;
        let at = self.ours.as_ref().map_or(self.rest.len(), |(at, _)| *at);
        let (before, after) = self.rest.split_at_checked(at).ok_or(ConfigError::Markers)?;
        let (line_end, note) =
            if before.is_empty() || before.ends_with('\n') { ("", "") } else { ("\n", LINE_END_ADDED) };
        let text = format!("{before}{line_end}{BEGIN}{note}\n{body}{END}\n{after}");
        let whole = table(&text).map_err(|error| match error {
            ConfigError::NotToml(why) => ConfigError::Closed(why),
            other => other,
        })?;
        // The two must differ in our handlers only.
        match Self::parse(&text) {
            Ok(parsed) if parsed.rest == self.rest && parsed.table == whole => Ok(text),
            Ok(_) => Err(ConfigError::Markers),
            Err(error) => Err(error),
        }
    }

    /// The text without our part; `None` when nothing is left that anybody wrote.
    #[must_use]
    pub fn without_handlers(&self) -> Option<&str> {
        (!self.rest.is_empty() || self.ours.is_none()).then_some(&self.rest)
    }
}

/// What a configuration, or containerd's own account of it (`containerd config dump`), says of one of our handlers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The handler.
    pub name: &'static str,
    /// Whether there is such a handler.
    pub there: bool,
    /// The path of its shim, when containerd finds a shim by it.
    pub shim: Option<String>,
    /// Whether all annotations that the shim needs are handed on.
    pub annotations: bool,
}

/// What `text` says of each of [`HANDLERS`], in their order, to a containerd that wants shims named so.
///
/// # Errors
/// [`ConfigError::NotToml`].
pub fn told(text: &str, naming: Naming) -> Result<[Told; HANDLERS.len()], ConfigError> {
    let table = table(text)?;
    Ok(HANDLERS.map(|handler| of_handler(&table, &handler, naming)))
}

fn of_handler(table: &Table, handler: &Handler, naming: Naming) -> Told {
    let found = [Dialect::Three, Dialect::Two]
        .into_iter()
        .find_map(|dialect| runtimes(table, dialect).ok().flatten()?.get(handler.name)?.as_table());
    let text = |key: &str| found.and_then(|runtime| runtime.get(key)?.as_str()).map(str::to_owned);
    let lists = |key: &str| {
        let list = found.and_then(|runtime| runtime.get(key)?.as_array());
        let there: Vec<&str> = list.into_iter().flatten().filter_map(Value::as_str).collect();
        ANNOTATIONS.iter().all(|wanted| there.contains(wanted))
    };
    let shim = match text("runtime_type") {
        Some(path) if path.starts_with('/') => Some(path),
        Some(kind) if naming == Naming::Type && kind == handler.runtime_type => text("runtime_path"),
        _ => None,
    };
    Told {
        name: handler.name,
        there: found.is_some(),
        shim,
        annotations: lists("pod_annotations") && lists("container_annotations"),
    }
}

/// The handlers of a configuration or of a dump of it that point at our shims and hand on our annotations.
pub(crate) fn complete_handlers(table: &Table, naming: Naming) -> Vec<&'static str> {
    let complete = |handler: &&Handler| {
        let told = of_handler(table, handler, naming);
        told.shim.as_deref() == Some(&format!("{BIN}/{}", handler.shim)) && told.annotations
    };
    HANDLERS.iter().filter(complete).map(|handler| handler.name).collect()
}

/// A configuration without our handlers and without its list of imports, for a comparison.
pub(crate) fn stripped(mut table: Table) -> Table {
    for dialect in [Dialect::Two, Dialect::Three] {
        strip_runtimes(&mut table, dialect.plugin(), &Handler::is_ours);
    }
    table.remove("imports");
    table
}

/// Takes runtimes out, and the tables that are empty then.
fn strip_runtimes(table: &mut Table, plugin: &str, taken: &dyn Fn(&str) -> bool) {
    fn descend(table: &mut Table, path: &[&str], taken: &dyn Fn(&str) -> bool) {
        let Some((first, rest)) = path.split_first() else {
            return table.retain(|name, _| !taken(name));
        };
        if let Some(inner) = table.get_mut(*first).and_then(Value::as_table_mut) {
            descend(inner, rest, taken);
            if inner.is_empty() {
                table.remove(*first);
            }
        }
    }
    descend(table, &["plugins", plugin, "containerd", "runtimes"], taken);
}

/// Parses TOML.
pub(crate) fn table(text: &str) -> Result<Table, ConfigError> {
    text.parse::<Table>().map_err(|error| {
        let line =
            error.span().map_or(1, |span| text.get(..span.start).map_or(1, |before| before.matches('\n').count() + 1));
        ConfigError::NotToml(format!("line {line}: {}", error.message()))
    })
}

/// Our part may hold runtimes and a version, and the whole text must be the rest and our part.
fn check_part(part: &str, whole: &Table, rest: &Table) -> Result<(), ConfigError> {
    let part = table(part).map_err(|_| ConfigError::Mixed)?;
    let mut left = part.clone();
    let mut without = whole.clone();
    for dialect in [Dialect::Two, Dialect::Three] {
        let names: Vec<String> = runtimes(&part, dialect)?.map(|r| r.keys().cloned().collect()).unwrap_or_default();
        let named = |name: &str| names.iter().any(|n| n == name);
        strip_runtimes(&mut left, dialect.plugin(), &named);
        strip_runtimes(&mut without, dialect.plugin(), &named);
    }
    let mut rest = rest.clone();
    if left.remove("version").is_some() {
        without.remove("version");
    }
    for dialect in [Dialect::Two, Dialect::Three] {
        strip_runtimes(&mut rest, dialect.plugin(), &|_| false);
    }
    if left.is_empty() && without == rest { Ok(()) } else { Err(ConfigError::Mixed) }
}

fn dialect(table: &Table) -> Result<Dialect, ConfigError> {
    match table.get("version") {
        Some(Value::Integer(2)) => Ok(Dialect::Two),
        Some(Value::Integer(3)) => Ok(Dialect::Three),
        Some(other) => Err(ConfigError::Version(other.to_string())),
        None => Err(ConfigError::Version("1 (it names none)".to_owned())),
    }
}

/// The runtimes of a configuration or of a dump of it.
pub(crate) fn runtimes(table: &Table, dialect: Dialect) -> Result<Option<&Table>, ConfigError> {
    let mut inner = table;
    let mut name = String::new();
    for key in ["plugins", dialect.plugin(), "containerd", "runtimes"] {
        name = if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
        inner = match inner.get(key) {
            None => return Ok(None),
            Some(Value::Table(table)) => table,
            Some(_) => return Err(ConfigError::Shape(name)),
        };
    }
    Ok(Some(inner))
}

/// Text without our part, where it was, and our part.
fn split(text: &str) -> Result<(String, Option<(usize, String)>), ConfigError> {
    let line_starts = |marker: &str| -> Vec<usize> {
        text.match_indices(marker)
            .map(|(at, _)| at)
            .filter(|at| *at == 0 || text.get(..*at).is_some_and(|before| before.ends_with('\n')))
            .collect()
    };
    let (begins, ends) = (line_starts(BEGIN), line_starts(END));
    match (begins.as_slice(), ends.as_slice()) {
        ([], []) => Ok((text.to_owned(), None)),
        ([begin], [end]) if begin < end => {
            let after = end + END.len();
            let tail = text.get(after..).and_then(|tail| tail.strip_prefix('\n')).ok_or(ConfigError::Markers)?;
            let part = text.get(*begin..after).ok_or(ConfigError::Markers)?;
            let mut before = text.get(..*begin).ok_or(ConfigError::Markers)?;
            let note = part.get(BEGIN.len()..).ok_or(ConfigError::Markers)?;
            if note.starts_with(LINE_END_ADDED) {
                before = before.strip_suffix('\n').ok_or(ConfigError::Markers)?;
            }
            Ok((format!("{before}{tail}"), Some((before.len(), part.to_owned()))))
        }
        _ => Err(ConfigError::Markers),
    }
}

/// Our handlers as tables, and runtimes to keep.
fn handlers(dialect: Dialect, naming: Naming, with_version: bool, kept: &Table) -> Result<String, ConfigError> {
    let mut text = if with_version { format!("version = {}\n", dialect.number()) } else { String::new() };
    let annotations = ANNOTATIONS.map(|pattern| format!("{pattern:?}")).join(", ");
    for handler in HANDLERS {
        text.push_str(&format!(
            "[plugins.{plugin:?}.containerd.runtimes.{name}]\n  runtime_type = {kind:?}\n  runtime_path = \"{BIN}/{shim}\"\n  \
             pod_annotations = [{annotations}]\n  container_annotations = [{annotations}]\n  \
             privileged_without_host_devices = true\n",
            plugin = dialect.plugin(),
            name = handler.name,
            kind = naming.runtime_type(&handler),
            shim = handler.shim,
        ));
    }
    if !kept.is_empty() {
        let mut nested = Table::from_iter([("runtimes".to_owned(), Value::Table(kept.clone()))]);
        for key in ["containerd", dialect.plugin(), "plugins"] {
            nested = Table::from_iter([(key.to_owned(), Value::Table(nested))]);
        }
        text.push_str("# containerd's own, which it would forget beside others:\n");
        text.push_str(&toml::to_string(&nested).map_err(|error| ConfigError::Closed(error.to_string()))?);
    }
    Ok(text)
}

/// A file that holds our handlers and nothing else, for a folder that the configuration imports.
pub(crate) fn drop_in(dialect: Dialect, naming: Naming) -> Result<String, ConfigError> {
    Ok(format!("{BEGIN}\n{}{END}\n", handlers(dialect, naming, true, &Table::new())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEBIAN: &str = "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    [plugins.\"io.containerd.grpc.v1.cri\".cni]\n      bin_dir = \"/usr/lib/cni\" # here\n";
    const THREE: &str = "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\nruntime_type = 'io.containerd.runc.v2'";

    fn with(text: &str) -> Result<String, ConfigError> {
        Configuration::parse(text)?.with_handlers(Dialect::Two, Naming::Type, &Table::new())
    }

    #[test]
    fn in_and_out_gives_the_same_bytes() {
        for text in [DEBIAN, THREE, "version = 2", "version = 2\n# é\n\n", "# only a comment", ""] {
            let edited = with(text).unwrap();
            assert!(edited.starts_with(text));
            let parsed = Configuration::parse(&edited).unwrap();
            assert_eq!(complete_handlers(&parsed.table, Naming::Type).len(), 4, "{edited}");
            assert_eq!(parsed.with_handlers(Dialect::Two, Naming::Type, &Table::new()).unwrap(), edited);
            assert_eq!(parsed.without_handlers(), Some(text).filter(|text| !text.is_empty()));
        }
    }

    #[test]
    fn what_is_written_around_ours_later_stays() {
        let edited = format!("# above\n{}[debug]\nlevel = 'info'\n", with(DEBIAN).unwrap());
        let parsed = Configuration::parse(&edited).unwrap();
        assert_eq!(parsed.with_handlers(Dialect::Two, Naming::Type, &Table::new()).unwrap(), edited);
        assert_eq!(parsed.without_handlers().unwrap(), format!("# above\n{DEBIAN}[debug]\nlevel = 'info'\n"));
        // another release's part is replaced in its place
        let older = edited.replace("  privileged_without_host_devices = true\n", "");
        assert_eq!(
            Configuration::parse(&older).unwrap().with_handlers(Dialect::Two, Naming::Type, &Table::new()).unwrap(),
            edited
        );
    }

    #[test]
    fn each_refusal_names_its_cause() {
        let foreign =
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.belljar]\nruntime_type = 'x'\n";
        let inline = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\nruntimes = { runc = { runtime_type = 'x' } }\n";
        let opened =
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\nruntimes.runc = { runtime_type = 'x' }\n";
        assert_eq!(with(foreign), Err(ConfigError::Foreign { handler: "belljar".into() }));
        assert!(with(&foreign.replace("runtimes.belljar", "runtimes.belljam")).is_ok());
        assert!(matches!(with(inline), Err(ConfigError::Closed(_))));
        assert!(with(opened).is_ok());
        assert_eq!(with("version = 1"), Err(ConfigError::Version("1".into())));
        assert_eq!(with("root = '/x'"), Err(ConfigError::Version("1 (it names none)".into())));
        assert!(with("version = 2\nroot = '/x'").is_ok());
        assert!(matches!(with("version = 2\nroot ="), Err(ConfigError::NotToml(why)) if why.starts_with("line 2: ")));
        let edited = with(DEBIAN).unwrap();
        assert_eq!(with(&edited.replace(END, "# gone")), Err(ConfigError::Markers));
        assert_eq!(
            with(&format!("{edited}{edited}").replace("version = 2\n", "")).unwrap_err().to_string().split(':').next(),
            Some("it is not TOML")
        );
        let mixed = edited.replace(END, &format!("[debug]\nlevel = 'x'\n{END}"));
        assert_eq!(with(&mixed), Err(ConfigError::Mixed));
        let shape = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\ncontainerd = 3\n";
        assert_eq!(with(shape), Err(ConfigError::Shape("plugins.io.containerd.grpc.v1.cri.containerd".into())));
        let disabled = Configuration::parse("version = 2\ndisabled_plugins = ['cri']").unwrap();
        assert_eq!(disabled.check_cri(), Err(ConfigError::CriDisabled { plugin: "cri".into() }));
        assert_eq!(Configuration::parse("version = 2\ndisabled_plugins = ['aufs']").unwrap().check_cri(), Ok(()));
    }

    #[test]
    fn a_handler_counts_when_it_is_whole() {
        let edited = with(DEBIAN).unwrap();
        for part in
            ["\"belljar.dev/*\"", "io.containerd.belljar-snp.v2", "/opt/belljar/bin/containerd-shim-belljar-tdx-v2"]
        {
            let broken =
                table(&edited.replacen(part, "\"x\"".trim_matches(if part.starts_with('"') { ' ' } else { '"' }), 1))
                    .unwrap();
            assert_eq!(complete_handlers(&broken, Naming::Type).len(), 3, "{part}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(# >>> belljar|# <<< belljar|version = 2|\\[a\\]|x = 1|\n|.){0,40}") {
            if let Ok(parsed) = Configuration::parse(&text) && let Ok(edited) = parsed.with_handlers(Dialect::Three, Naming::Path, &Table::new()) {
                let again = Configuration::parse(&edited).unwrap();
                prop_assert_eq!(again.without_handlers().unwrap_or_default(), parsed.rest);
            }
        }
    }
}
