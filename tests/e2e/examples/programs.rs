//! The programs of `docs/examples/application`: builds them, and starts the stand-ins for a database.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use super::{example, find, link, python, python_packages, search_path, skip};
use crate::bao::wait;
use crate::plugin;
use crate::world::World;

/// A program that is ready to start.
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) command: Command,
    pub(super) stand_in: Option<StandIn>,
}

impl Program {
    /// Returns all programs. Skips a program, and prints the reason, if this machine lacks its requirements.
    pub(super) fn all(world: &World) -> Vec<Self> {
        let alone = |(name, command)| Self { name, command, stand_in: None };
        let mut programs: Vec<Self> = Vec::new();
        programs.push(alone(("worker.rs", Command::new(plugin::example("worker")))));
        let mut worker = python();
        worker.arg(example("application/worker.py"));
        programs.push(alone(("worker.py", worker)));
        programs.extend([shell(), go(), node(), java()].into_iter().flatten().map(alone));
        programs.extend(with_drivers(world));
        programs
    }
}

fn shell() -> Option<(&'static str, Command)> {
    needs("application/worker.sh", &["curl"])?;
    let mut command = Command::new("sh");
    command.arg(example("application/worker.sh")).env("PATH", search_path(jq()));
    Some(("worker.sh", command))
}

fn node() -> Option<(&'static str, Command)> {
    needs("application/worker.mjs", &["node"])?;
    // Node has `fetch` since version 18.
    let modern = Command::new("node").args(["-e", "fetch"]).stderr(Stdio::null()).status().expect("run node");
    if !modern.success() {
        skip("docs/examples/application/worker.mjs", "node 18 or newer");
        return None;
    }
    let mut command = Command::new("node");
    command.arg(example("application/worker.mjs"));
    Some(("worker.mjs", command))
}

fn go() -> Option<(&'static str, Command)> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    needs("application/go", &["go"])?;
    let dir = BUILT.get_or_init(|| {
        built("application/go", &["main.go", "go.mod", "go.sum"], |dir| {
            let mut build = Command::new("go");
            build.args(["build", "-o", "worker"]).current_dir(dir);
            build
        })
    });
    Some(("go/main.go", Command::new(dir.join("worker"))))
}

fn java() -> Option<(&'static str, Command)> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    needs("application/java", &["java", "mvn"])?;
    let dir = BUILT.get_or_init(|| {
        built("application/java", &["pom.xml", "src/main/java/Worker.java"], |dir| {
            let mut build = Command::new("mvn");
            build.args(["--quiet", "--batch-mode", "compile"]).current_dir(dir);
            build
        })
    });
    let mut command = Command::new("java");
    command.arg("-cp").arg(format!("{0}/classes:{0}/lib/*", dir.join("target").display())).arg("Worker");
    Some(("java/Worker.java", command))
}

/// Builds a program in a copy of its sources, in the target folder. Returns the folder of the copy. Later test runs use it again,
/// until a source changes.
fn built(name: &str, sources: &[&str], build: impl FnOnce(&Path) -> Command) -> PathBuf {
    let read = |source: &&str| fs::read(example(name).join(source)).expect("read a source");
    let texts: Vec<Vec<u8>> = sources.iter().map(read).collect();
    let mut hasher = DefaultHasher::new();
    texts.hash(&mut hasher);
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let place = root.join(format!("{}-{:016x}", name.replace('/', "-"), hasher.finish()));
    if !place.exists() {
        let work = tempfile::tempdir_in(root).expect("temporary directory");
        for (source, text) in sources.iter().zip(texts) {
            let copy = work.path().join(source);
            fs::create_dir_all(copy.parent().expect("a folder")).expect("create a directory");
            fs::write(copy, text).expect("copy a source");
        }
        succeeds(build(work.path()));
        // Fails if another test run was faster.
        let moved = fs::rename(work.path(), &place);
        assert!(place.exists(), "{moved:?}");
    }
    place
}

/// The programs with a client of a database, each with its stand-in.
fn with_drivers(world: &World) -> Vec<Program> {
    let Some(drivers) = python_drivers() else {
        for name in ["data_api.py", "cql.py"] {
            skip(&format!("docs/examples/application/{name}"), "wheel of its driver for this Python");
        }
        return Vec::new();
    };
    let program = |name: &'static str, variable| {
        let stand_in = StandIn::start(world, name);
        let mut command = python();
        command
            .arg(example("application").join(name))
            .env("PYTHONPATH", format!("{}:{}", drivers.display(), python_packages().display()))
            .env(variable, &stand_in.address)
            .env("GRACE", "2");
        Program { name, command, stand_in: Some(stand_in) }
    };
    vec![program("data_api.py", "ASTRA_DATA_API"), program("cql.py", "CQL_ADDR")]
}

/// A database that accepts the live tokens of the simulated Astra. Stopped when dropped.
pub(super) struct StandIn {
    child: Child,
    dir: TempDir,
    address: String,
}

impl StandIn {
    fn start(world: &World, name: &str) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = |name: &str| fs::File::create(dir.path().join(name)).expect("create a file");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/stand-ins").join(name);
        let child = python()
            .arg(script)
            .env("ASTRA_URL", world.url())
            .stdin(Stdio::null())
            .stdout(file("out"))
            .stderr(file("err"))
            .spawn()
            .expect("run python3");
        let mut stand_in = Self { child, dir, address: String::new() };
        stand_in.address = wait("the address of a stand-in", Duration::from_secs(60), || {
            stand_in.output().split_once('\n').map(|(address, _)| address.to_owned())
        });
        stand_in
    }

    /// Returns its address, and a line for each login and each request.
    pub(super) fn output(&self) -> String {
        fs::read_to_string(self.dir.path().join("out")).expect("read the output")
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the directory of the packages with compiled parts, or nothing if they do not fit this machine.
fn python_drivers() -> Option<&'static Path> {
    static DRIVERS: OnceLock<Option<PathBuf>> = OnceLock::new();
    let fetch = || {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/python-packages.sh");
        let output = Command::new("sh").args([script, "python-drivers.txt"]).output().expect("run sh");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || output.status.code() == Some(3), "{told}");
        output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    };
    DRIVERS.get_or_init(fetch).as_deref()
}

/// Returns nothing, and prints the reason, if a program is not on this machine.
fn needs(example: &str, programs: &[&str]) -> Option<()> {
    let missing = programs.iter().find(|program| find(program).is_none());
    if let Some(program) = missing {
        skip(&format!("docs/examples/{example}"), program);
    }
    missing.is_none().then_some(())
}

#[track_caller]
fn succeeds(mut command: Command) {
    let output = command.output().expect("run a command");
    let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}\n{}\n{}", told(&output.stdout), told(&output.stderr));
}

/// Returns a directory with `jq`. If the machine has no `jq`, it contains a program that does the same.
fn jq() -> &'static Path {
    static BIN: OnceLock<PathBuf> = OnceLock::new();
    BIN.get_or_init(|| {
        let bin = python_packages().join("bin");
        if find("jq").is_none() {
            link(&bin.join("jaq"), &bin.join("jq"));
        }
        bin
    })
}
