//! A PostgreSQL server of the tests' own: in a folder that goes away, as a user that is not root, on a Unix socket.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use belljar_store::PostgresOptions;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};

/// The one that most tests share.
static SHARED: OnceLock<Server> = OnceLock::new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// PostgreSQL's programs, where they are installed.
pub fn programs() -> Option<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|folder| folder.join("initdb").exists())
        .collect();
    all.sort();
    all.pop()
}

pub struct Server {
    folder: tempfile::TempDir,
    process: Mutex<Option<Child>>,
}

impl Server {
    pub fn shared() -> &'static Self {
        SHARED.get_or_init(Self::start)
    }

    /// Ends the shared one, when it was started.
    pub fn stop_shared() {
        if let Some(server) = SHARED.get() {
            server.stop("INT");
            std::fs::remove_dir_all(server.folder.path()).unwrap();
        }
    }

    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("belljar-pg").tempdir_in("/tmp").unwrap();
        let server = Self { folder, process: Mutex::new(None) };
        if is_root() {
            std::os::unix::fs::chown(server.folder.path(), Some(65534), Some(65534)).unwrap();
        }
        let made = program("initdb")
            .args(["--no-sync", "--auth=trust", "--username=belljar", "--encoding=UTF8", "--locale=C.UTF-8", "-D"])
            .arg(server.data())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(made.success());
        server.run();
        server
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts it, and waits until it answers. What a killed server left behind may keep it from starting for a moment.
    pub fn run(&self) {
        let mut child = self.spawn();
        let end = Instant::now() + Duration::from_secs(60);
        let ready = || {
            let status = program("pg_isready").arg("-q").arg("-h").arg(self.folder.path()).status().unwrap();
            status.success()
        };
        while !ready() {
            assert!(Instant::now() < end, "{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
            if child.try_wait().unwrap().is_some() {
                child = self.spawn();
            }
        }
        *self.process.lock().unwrap() = Some(child);
    }

    fn spawn(&self) -> Child {
        let settings = ["listen_addresses=", "fsync=off", "max_connections=300", "shared_buffers=32MB"];
        program("postgres")
            .arg("-D")
            .arg(self.data())
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .arg("-k")
            .arg(self.folder.path())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(self.folder.path().join("log")).unwrap())
            .spawn()
            .unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Stops it: `INT` cuts all connections, `QUIT` does so without a word.
    pub fn stop(&self, signal: &str) {
        let Some(mut child) = self.process.lock().unwrap().take() else { return };
        Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        child.wait().unwrap();
    }

    pub fn address(&self, database: &str) -> String {
        let socket = self.folder.path().to_str().unwrap().replace('/', "%2F");
        format!("postgres://belljar@{socket}/{database}")
    }

    /// A new, empty database.
    pub async fn database(&self) -> Database {
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let mut connection = PgConnection::connect(&self.address("postgres")).await.unwrap();
        connection.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
        Database { address: self.address(&name) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop("INT");
    }
}

pub struct Database {
    pub address: String,
}

impl Database {
    pub fn options(&self) -> PostgresOptions {
        PostgresOptions::new(&self.address).unwrap()
    }

    /// A connection past the store.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.address).await.unwrap()
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

fn program(name: &str) -> Command {
    let path = programs().unwrap().join(name);
    let mut command = Command::new(path);
    if is_root() {
        command.uid(65534).gid(65534);
    }
    command.current_dir(Path::new("/"));
    command
}
