//! `make bench MODE=profile`: shows in which functions of the plugin and the server a request spends its time.
//!
//! While the load generator sends requests, perf takes samples of both processes. The report is text. The complete
//! stacks are written beside it, in the folded form for flame graphs.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::load::{Load, Requests, Until};
use crate::server::{BenchServer, TestMount};
use crate::settings::{Settings, require};
use crate::stacks::{PLUGIN, SERVER, Stacks};
use crate::{OURS, rows, say};

/// Samples per second and thread. A prime number, so that samples do not coincide with periodic work.
const FREQUENCY: &str = "997";

/// A kind of request, and the requests of this kind.
type Kind = (&'static str, fn(&TestMount) -> Requests);

/// The profiled kinds of requests.
const KINDS: &[Kind] = &[("role read", rows::role_read), ("mint", rows::creds)];

const CONNECTIONS: usize = 4;

/// Takes samples and prints the report.
pub(crate) fn run() -> Result<(), String> {
    let settings = Settings::read()?;
    require("perf", "linux-perf\" or \"linux-tools-generic")?;
    let bench = BenchServer::new(&[(OURS, &settings.plugin)]);
    let mut mount = TestMount::new(&bench, OURS);
    mount.fill(&bench, settings.sizes[0]);
    let folder = settings.json.parent().expect("a folder");
    std::fs::create_dir_all(folder).expect("make the report's folder");
    let dir = tempfile::tempdir().expect("temporary directory");
    let load = Load { oha: &settings.oha, address: bench.server.address(), token: "root", dir: dir.path() };
    for (name, requests) in KINDS {
        let data = dir.path().join("perf.data");
        record(&bench, &data, || {
            let sample = load.run(&requests(&mount), CONNECTIONS, Until::Seconds(settings.seconds * 3));
            assert_eq!(sample.failed, 0, "requests failed");
        });
        let script = Command::new("perf")
            .args(["script", "-F", "comm,pid,ip,sym", "--no-inline", "-i"])
            .arg(&data)
            .output()
            .expect("run perf script");
        let text = String::from_utf8_lossy(&script.stdout);
        for (what, pid, layers) in [("plugin", bench.pid(OURS), PLUGIN), ("server", Some(bench.server.pid()), SERVER)] {
            let stacks = Stacks::read(&text, pid.expect("a process"));
            println!("\n### {name}: the {what}\n\n{}", stacks.markdown(layers));
            let folded = folder.join(format!("{}-{what}.folded", name.replace(' ', "-")));
            std::fs::write(&folded, stacks.folded()).expect("write the stacks");
            say(&format!("{} samples of the {what}; stacks are in {}", stacks.len(), folded.display()));
        }
    }
    Ok(())
}

/// Records samples of the plugin and the server while `work` runs.
fn record(bench: &BenchServer, data: &Path, work: impl FnOnce()) {
    let pids = format!("{},{}", bench.pid(OURS).expect("the plugin runs"), bench.server.pid());
    let mut perf = Command::new("perf")
        .args(["record", "-q", "-e", "cpu-clock", "-F", FREQUENCY, "-g", "-p", &pids, "-o"])
        .arg(data)
        .stdout(Stdio::null())
        .spawn()
        .expect("run perf");
    work();
    let pid = i32::try_from(perf.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("stop perf");
    perf.wait().expect("wait for perf");
    assert!(data.exists(), "perf has recorded nothing");
}
