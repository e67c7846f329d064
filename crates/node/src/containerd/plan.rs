//! What to change in containerd's configuration, tried on containerd's own program before anything is written.
//!
//! Where our handlers go:
//! * containerd from 2.0 on, and its configuration imports a folder: into a file of that folder, of the same version as the main
//!   file (with another version, containerd 2.1 forgets the main file's settings of the plugin);
//! * containerd 1.x, and an imported file has the plugin's section: into that file, since 1.x takes a plugin's section from the last
//!   file that has one, and forgets the others';
//! * else into the main file.
//!
//! Whatever the place, `containerd config dump` of the candidate must be the present dump and our handlers, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::containerd::edit::{self, ConfigError, Configuration, Dialect, Naming};
use crate::containerd::imports::Import;
use crate::containerd::program::{Containerd, ProgramError};
use crate::files::{self, FileError};
use crate::handlers::{HANDLERS, Handler};

/// Our file in a folder that is imported.
const DROP_IN: &str = "belljar.toml";

/// Why containerd's configuration is left as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A file of it is refused.
    #[error("{path}: {why}")]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        why: ConfigError,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// containerd's program fails, or refuses a configuration.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// containerd would understand more or less than our handlers.
    #[error(
        "with our handlers, containerd would also understand {what} differently ({before} before, {after} after); nothing was \
         changed; add the handlers by hand, see docs/install.md"
    )]
    Differs {
        /// The setting.
        what: String,
        /// Its value now.
        before: String,
        /// Its value then.
        after: String,
    },
    /// containerd would not have all handlers.
    #[error("containerd would not take the handler {0} from {1}; nothing was changed; see docs/install.md")]
    NotTaken(&'static str, PathBuf),
    /// containerd has such a handler, and no file that we know has it.
    #[error(
        "containerd has a handler {handler:?} that belljar did not write (see `containerd config dump`); take it out or rename it"
    )]
    Foreign {
        /// The handler.
        handler: &'static str,
    },
    /// A file of that name is there.
    #[error("{path} is there and is not belljar's; move it away")]
    InTheWay {
        /// The file.
        path: PathBuf,
    },
}

/// Where our handlers stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Between marked lines of the main file.
    MainFile,
    /// Between marked lines of a file that the main file imports.
    ImportedFile,
    /// In a file of our own.
    OwnFile,
}

/// A file of the configuration.
#[derive(Debug, Clone)]
struct Part {
    path: PathBuf,
    bytes: Option<Vec<u8>>,
    config: Configuration,
}

/// containerd's configuration as it is on disk.
#[derive(Debug, Clone)]
pub struct Found {
    main: Part,
    /// Imported files, in the order in which containerd reads them.
    imported: Vec<Part>,
    imports: Vec<Import>,
}

/// One file that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The file.
    pub path: PathBuf,
    /// Its bytes now; `None` when it is not there.
    pub before: Option<Vec<u8>>,
    /// Its bytes then; `None` when it is to go.
    pub after: Option<Vec<u8>>,
}

/// What changes. No edits: nothing is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The files that change.
    pub edits: Vec<Edit>,
    /// The file that has our handlers then (or had them).
    pub file: PathBuf,
    /// What kind of file.
    pub place: Place,
}

impl Found {
    /// The handlers of ours that the files name completely.
    #[must_use]
    pub fn handlers(&self, naming: Naming) -> Vec<&'static str> {
        let parts = std::iter::once(&self.main).chain(&self.imported);
        let named: Vec<&str> = parts.flat_map(|part| edit::complete_handlers(&part.config.table, naming)).collect();
        HANDLERS.iter().map(|handler| handler.name).filter(|name| named.contains(name)).collect()
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        std::iter::once(&self.main).chain(&self.imported)
    }
}

/// Reads the configuration at `config`, which need not exist, and what it imports.
///
/// # Errors
/// [`PlanError`]: a file that cannot be read, is no TOML, or has a handler of our name that is not ours.
pub fn find(config: &Path) -> Result<Found, PlanError> {
    let refused = |path: &Path, why| PlanError::Config { path: path.to_owned(), why };
    let main = part(config)?.map_err(|why| refused(config, why))?;
    main.config.check_cri().map_err(|why| refused(config, why))?;
    let mut imports = Vec::new();
    let mut imported: Vec<Part> = Vec::new();
    for written in main.config.imports() {
        let import = Import::of(&written, config).map_err(|why| refused(config, why))?;
        for path in import.files()? {
            if path == config || imported.iter().any(|part| part.path == path) {
                continue;
            }
            match part(&path)? {
                Ok(part) => imported.push(part),
                // It is none of ours, and whether it matters is seen from what containerd makes of it.
                Err(ConfigError::Version(_)) => {}
                Err(why) => return Err(refused(&path, why)),
            }
        }
        imports.push(import);
    }
    Ok(Found { main, imported, imports })
}

fn part(path: &Path) -> Result<Result<Part, ConfigError>, FileError> {
    let bytes = files::read(path, edit::MAX)?;
    let parsed = match std::str::from_utf8(bytes.as_deref().unwrap_or_default()) {
        Ok(text) => Configuration::parse(text),
        Err(_) => Err(ConfigError::NotText),
    };
    Ok(parsed.map(|config| Part { path: path.to_owned(), bytes, config }))
}

/// What to change so that containerd has our handlers. `scratch` is a folder for candidates; it is made, and removed again.
///
/// # Errors
/// [`PlanError`]; nothing was changed.
pub fn plan_install(found: &Found, containerd: &Containerd, scratch: &Path) -> Result<Plan, PlanError> {
    let newest = if containerd.release >= (2, 0) { Dialect::Three } else { Dialect::Two };
    let naming = Naming::of(containerd.release);
    let dialect = found.main.config.dialect().unwrap_or(newest);
    let before = containerd.dump(&found.main.path)?;
    foreign(found, &before)?;
    let place = place(found, containerd, dialect);
    let plan_with = |kept: &Table| -> Result<Plan, PlanError> {
        let (path, bytes, after) = match &place {
            Target::OwnFile(path) => {
                let bytes = files::read(path, edit::MAX)?;
                let ours = found.imported.iter().any(|part| part.path == *path && part.config.is_ours());
                if bytes.is_some() && !ours {
                    return Err(PlanError::InTheWay { path: path.clone() });
                }
                let text =
                    edit::drop_in(dialect, naming).map_err(|why| PlanError::Config { path: path.clone(), why })?;
                (path.clone(), bytes, text)
            }
            Target::Part(part) => {
                let text = part.config.with_handlers(newest, naming, kept);
                let text = text.map_err(|why| PlanError::Config { path: part.path.clone(), why })?;
                (part.path.clone(), part.bytes.clone(), text)
            }
        };
        let after = after.into_bytes();
        let edits = if bytes.as_ref() == Some(&after) {
            Vec::new()
        } else {
            vec![Edit { path: path.clone(), before: bytes, after: Some(after) }]
        };
        Ok(Plan { edits, file: path, place: place.kind(found) })
    };
    let mut plan = plan_with(&Table::new())?;
    let mut then = try_out(found, &plan, containerd, scratch)?;
    let lost = lost_runtimes(&before, &then);
    if !lost.is_empty() {
        plan = plan_with(&lost)?;
        then = try_out(found, &plan, containerd, scratch)?;
    }
    compare(&before, &then)?;
    let complete = edit::complete_handlers(&then, naming);
    match HANDLERS.iter().find(|handler| !complete.contains(&handler.name)) {
        Some(handler) => Err(PlanError::NotTaken(handler.name, plan.file)),
        None => Ok(plan),
    }
}

/// What to change so that nothing of ours is left; tried on containerd's program when there is one.
///
/// # Errors
/// [`PlanError`]; nothing was changed.
pub fn plan_removal(found: &Found, containerd: Option<&Containerd>, scratch: &Path) -> Result<Plan, PlanError> {
    let edits: Vec<Edit> = found
        .parts()
        .filter(|part| part.config.is_ours())
        .map(|part| Edit {
            path: part.path.clone(),
            before: part.bytes.clone(),
            after: part.config.without_handlers().map(|text| text.as_bytes().to_vec()),
        })
        .collect();
    let file = edits.first().map_or_else(|| found.main.path.clone(), |edit| edit.path.clone());
    let place = if file == found.main.path { Place::MainFile } else { Place::ImportedFile };
    let plan = Plan { edits, file, place };
    if let (Some(containerd), false) = (containerd, plan.edits.is_empty()) {
        let before = containerd.dump(&found.main.path)?;
        compare(&before, &try_out(found, &plan, containerd, scratch)?)?;
    }
    Ok(plan)
}

enum Target<'a> {
    OwnFile(PathBuf),
    Part(&'a Part),
}

impl Target<'_> {
    fn kind(&self, found: &Found) -> Place {
        match self {
            Self::OwnFile(_) => Place::OwnFile,
            Self::Part(part) if part.path == found.main.path => Place::MainFile,
            Self::Part(_) => Place::ImportedFile,
        }
    }
}

fn place<'a>(found: &'a Found, containerd: &Containerd, dialect: Dialect) -> Target<'a> {
    let merges = containerd.release >= (2, 0);
    // Where our part is, it stays, so that one file changes and not two.
    if let Some(part) = found.parts().find(|part| part.config.is_ours()) {
        let own = part.config.without_handlers().is_none() && part.path.file_name().is_some_and(|name| name == DROP_IN);
        return if own && merges { Target::OwnFile(part.path.clone()) } else { Target::Part(part) };
    }
    if merges && let Some(path) = found.imports.iter().find_map(|import| import.place_for(DROP_IN)) {
        return Target::OwnFile(path);
    }
    let last = found.imported.iter().rfind(|part| !merges && part.config.configures_runtimes(dialect));
    Target::Part(last.unwrap_or(&found.main))
}

/// A handler of our name that containerd has from a file that we do not know.
fn foreign(found: &Found, dump: &Table) -> Result<(), PlanError> {
    if found.parts().any(|part| part.config.is_ours()) {
        return Ok(());
    }
    for dialect in [Dialect::Two, Dialect::Three] {
        let Ok(Some(runtimes)) = edit::runtimes(dump, dialect) else { continue };
        if let Some(handler) = HANDLERS.iter().find(|handler| runtimes.contains_key(handler.name)) {
            return Err(PlanError::Foreign { handler: handler.name });
        }
    }
    Ok(())
}

/// What containerd makes of the configuration after the plan, which is tried beside the real files.
fn try_out(found: &Found, plan: &Plan, containerd: &Containerd, scratch: &Path) -> Result<Table, PlanError> {
    if plan.edits.is_empty() {
        return Ok(containerd.dump(&found.main.path)?);
    }
    files::remove_tree(scratch)?;
    files::folder(scratch)?;
    let result = candidate(found, plan, scratch).and_then(|path| Ok(containerd.dump(&path)?));
    files::remove_tree(scratch)?;
    result
}

/// Writes the candidate below `scratch`. Relative imports become absolute; else the main file's text is kept as it is.
fn candidate(found: &Found, plan: &Plan, scratch: &Path) -> Result<PathBuf, PlanError> {
    let edited = |path: &Path| plan.edits.iter().find(|edit| edit.path == path);
    let main = scratch.join("config.toml");
    let text = match edited(&found.main.path) {
        Some(edit) => edit.after.clone(),
        None => found.main.bytes.clone(),
    };
    let Some(text) = text else { return Ok(main) };
    let text = String::from_utf8_lossy(&text).into_owned();
    if found.main.config.imports().is_empty() {
        return write(&main, text.as_bytes()).map(|()| main);
    }
    let mut table = edit::table(&text).map_err(|why| PlanError::Config { path: found.main.path.clone(), why })?;
    let mut imports: Vec<PathBuf> = Vec::new();
    for import in &found.imports {
        imports.extend(import.files()?);
    }
    if let Some(edit) = plan.edits.iter().find(|edit| edit.path != found.main.path && !imports.contains(&edit.path)) {
        imports.push(edit.path.clone());
    }
    let mut list = Vec::new();
    for (number, path) in imports.into_iter().enumerate() {
        match edited(&path) {
            Some(Edit { after: None, .. }) => {}
            Some(Edit { after: Some(bytes), .. }) => {
                let path = scratch.join(format!("import-{number}.toml"));
                write(&path, bytes)?;
                list.push(Value::String(path.to_string_lossy().into_owned()));
            }
            None => list.push(Value::String(path.to_string_lossy().into_owned())),
        }
    }
    table.insert("imports".to_owned(), Value::Array(list));
    let text = toml::to_string(&table).map_err(|error| PlanError::Config {
        path: found.main.path.clone(),
        why: ConfigError::NotToml(error.to_string()),
    })?;
    write(&main, text.as_bytes()).map(|()| main)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), PlanError> {
    fs::write(path, bytes).map_err(files::at(path)).map_err(PlanError::File)
}

/// Runtimes that containerd has now, and would not have then.
fn lost_runtimes(before: &Table, then: &Table) -> Table {
    let mut lost = Table::new();
    for dialect in [Dialect::Two, Dialect::Three] {
        let Ok(Some(before)) = edit::runtimes(before, dialect) else { continue };
        let then = edit::runtimes(then, dialect).ok().flatten();
        for (name, value) in before {
            if !Handler::is_ours(name) && !then.is_some_and(|then| then.contains_key(name)) {
                lost.insert(name.clone(), value.clone());
            }
        }
    }
    lost
}

/// Refuses when the two differ in more than our handlers.
fn compare(before: &Table, then: &Table) -> Result<(), PlanError> {
    let (before, then) = (edit::stripped(before.clone()), edit::stripped(then.clone()));
    match difference("", &Value::Table(before), &Value::Table(then)) {
        None => Ok(()),
        Some((what, before, after)) => Err(PlanError::Differs { what, before, after }),
    }
}

/// The first place where two values differ, and what is there.
fn difference(name: &str, a: &Value, b: &Value) -> Option<(String, String, String)> {
    let (Value::Table(a), Value::Table(b)) = (a, b) else {
        let short = |value: &Value| value.to_string().chars().take(100).collect::<String>();
        return (a != b).then(|| (name.to_owned(), short(a), short(b)));
    };
    let nothing = Value::String("nothing".to_owned());
    a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))).find_map(|key| {
        let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
        difference(&name, a.get(key).unwrap_or(&nothing), b.get(key).unwrap_or(&nothing))
    })
}
