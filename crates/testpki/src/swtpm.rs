//! A live TPM: swtpm in a folder of its own, asked with tpm2-tools, and the authority that certifies its endorsement key.
//!
//! Both are programs of the machine. A test asks [`installed`] first, and is reported as ignored where they are missing.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// What [`Tpm`] runs.
pub const TOOLS: [&str; 4] = ["swtpm", "tpm2_createak", "tpm2_readpublic", "tpm2_quote"];
/// What [`Maker`] runs besides.
pub const MAKER_TOOLS: [&str; 3] = ["swtpm_setup", "swtpm_localca", "tpm2_nvread"];

/// Whether all of these programs are on the path.
pub fn installed(programs: &[&str]) -> bool {
    programs.iter().all(|name| program(name).is_some())
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// A TPM with an RSA endorsement key (`ek.ctx`, `ek.pub` in its folder).
#[derive(Debug)]
pub struct Tpm {
    folder: TempDir,
    process: Child,
}

impl Drop for Tpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Tpm {
    /// A new one.
    pub fn start() -> Self {
        Self::start_in(TempDir::new().unwrap())
    }

    /// Starts on the state that is in the folder, if any.
    pub fn start_in(folder: TempDir) -> Self {
        let at = |name: &str| folder.path().join(name).display().to_string();
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--tpmstate", &format!("dir={}", folder.path().display())])
            .args(["--ctrl", &format!("type=unixio,path={}", at("sock.ctrl"))])
            .args(["--server", &format!("type=unixio,path={}", at("sock"))])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let tpm = Self { folder, process };
        // The sockets are there a moment before they are listened on, and the tools give up at once.
        let started = Instant::now();
        while let Err(error) = tpm.try_run("tpm2_createek -c ek.ctx -G rsa -u ek.pub") {
            assert!(started.elapsed() < Duration::from_secs(10), "swtpm does not start: {error}");
            std::thread::sleep(Duration::from_millis(20));
        }
        tpm.try_run("tpm2_flushcontext -t").unwrap();
        // Registers with values of their own.
        for (register, byte) in [(0, "00"), (7, "07"), (23, "23")] {
            for bank in ["sha256", "sha384"] {
                let digest = byte.repeat(if bank == "sha256" { 32 } else { 48 });
                tpm.run(&format!("tpm2_pcrextend {register}:{bank}={digest}"));
            }
        }
        tpm
    }

    /// Its folder: files of the tools are there.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a tool in the TPM's folder; what it complains about.
    ///
    /// # Errors
    /// The tool's standard error, when it ends with another code than 0.
    pub fn try_run(&self, line: &str) -> Result<(), String> {
        let mut words = line.split(' ');
        let output = Command::new(words.next().unwrap())
            .args(words)
            .current_dir(self.path())
            .env("TPM2TOOLS_TCTI", format!("swtpm:path={}", self.path().join("sock").display()))
            .output()
            .unwrap();
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// Runs a tool that must succeed.
    pub fn run(&self, line: &str) {
        self.try_run(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        // Objects and sessions that the tools leave behind would fill the TPM.
        if line.contains("-c ") {
            self.try_run("tpm2_flushcontext -t").unwrap();
        }
    }

    /// A file in the folder.
    pub fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path().join(name)).unwrap()
    }

    /// Makes an attestation key: `NAME.ctx`, `NAME.pub` (TPM2B_PUBLIC), `NAME.name`, `NAME.pem`. `kind` is `rsa` or `ecc`,
    /// `scheme` is `rsassa`, `rsapss` or `ecdsa`.
    pub fn make_attestation_key(&self, name: &str, kind: &str, scheme: &str) {
        self.run(&format!(
            "tpm2_createak -C ek.ctx -c {name}.ctx -G {kind} -g sha256 -s {scheme} -u {name}.pub -n {name}.name"
        ));
        self.run(&format!("tpm2_readpublic -Q -c {name}.ctx -f pem -o {name}.pem"));
    }

    /// A quote (TPMS_ATTEST) and its signature (TPMT_SIGNATURE) by a key of that scheme.
    pub fn quote(&self, key: &str, scheme: &str, selection: &str, nonce: &str) -> (Vec<u8>, Vec<u8>) {
        self.run(&format!(
            "tpm2_quote -c {key}.ctx -l {selection} -q {nonce} -m msg -s sig -g sha256 --scheme {scheme}"
        ));
        (self.file("msg"), self.file("sig"))
    }

    /// Lets the TPM activate a credential in the tools' format, for the attestation key of that name; what it gives back.
    ///
    /// # Errors
    /// What the TPM or the tools say.
    pub fn activate(&self, key: &str, credential: &[u8]) -> Result<Vec<u8>, String> {
        std::fs::write(self.path().join("credential"), credential).unwrap();
        self.run("tpm2_startauthsession --policy-session -S session");
        self.run("tpm2_policysecret -S session -c e");
        let answer = self.try_run(&format!(
            "tpm2_activatecredential -c {key}.ctx -C ek.ctx -i credential -o secret -P session:session"
        ));
        self.run("tpm2_flushcontext session");
        self.try_run("tpm2_flushcontext -t").unwrap();
        answer.map(|()| self.file("secret"))
    }
}

/// The maker of a TPM: an authority under a root of its own, which certifies endorsement keys.
#[derive(Debug)]
pub struct Maker {
    /// The authority's certificate, DER.
    pub issuer: Vec<u8>,
    /// The root's certificate, DER.
    pub root: Vec<u8>,
}

impl Maker {
    /// Makes a TPM with a certificate of its endorsement key, which is also put into `ek.der` in its folder.
    pub fn make() -> (Self, Tpm) {
        let (folder, authority) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let at = |name: &str| authority.path().join(name).display().to_string();
        let write = |name: &str, text: String| std::fs::write(authority.path().join(name), text).unwrap();
        write(
            "setup.conf",
            format!(
                "create_certs_tool={}\ncreate_certs_tool_config={}\ncreate_certs_tool_options={}\n",
                program("swtpm_localca").unwrap().display(),
                at("localca.conf"),
                at("options")
            ),
        );
        write(
            "localca.conf",
            format!(
                "statedir = {}\nsigningkey = {}\nissuercert = {}\ncertserial = {}\n",
                authority.path().display(),
                at("key.pem"),
                at("issuer.pem"),
                at("serial")
            ),
        );
        write("options", "--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n".to_owned());
        let output = Command::new("swtpm_setup")
            .args(["--tpm2", "--create-ek-cert", "--pcr-banks", "sha256,sha384", "--config", &at("setup.conf")])
            .args(["--tpmstate", &folder.path().display().to_string()])
            .output()
            .unwrap();
        assert!(output.status.success(), "swtpm_setup: {}", String::from_utf8_lossy(&output.stdout));
        let certificate = |name: &str| {
            let text = std::fs::read(authority.path().join(name)).unwrap();
            belljar_evidence::pem::certificates(&text, 1).unwrap().remove(0)
        };
        let maker = Self { issuer: certificate("issuer.pem"), root: certificate("swtpm-localca-rootca-cert.pem") };
        let tpm = Tpm::start_in(folder);
        tpm.run("tpm2_nvread 0x1c00002 -o ek.der");
        (maker, tpm)
    }
}
