//! `make bench MODE=profile`: where the time of a request goes, in the plugin and in the server.
//!
//! perf takes samples of both while the load generator keeps them busy. The report is text; the whole stacks are written
//! beside it in the folded form that flame graphs are drawn from.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::load::{Load, Shot, Until};
use crate::scene::{Place, Scene};
use crate::settings::{Settings, require};
use crate::stacks::{PLUGIN, SERVER, Stacks};
use crate::{OURS, rows, say};

/// Samples per second and thread: no divisor of what a clock does.
const FREQUENCY: &str = "997";

/// A kind of request, and how to make it.
type Work = (&'static str, fn(&Place) -> Shot);

/// What is profiled.
const WORK: &[Work] = &[("role read", rows::role_read), ("mint", rows::creds)];

const CONNECTIONS: usize = 4;

/// Takes samples and prints what they say.
pub(crate) fn run() -> Result<(), String> {
    let settings = Settings::read()?;
    require("perf", "linux-perf\" or \"linux-tools-generic")?;
    let scene = Scene::new(&[(OURS, &settings.plugin)]);
    let mut place = Place::new(&scene, OURS);
    place.fill(&scene, settings.sizes[0]);
    let folder = settings.json.parent().expect("a folder");
    std::fs::create_dir_all(folder).expect("make the report's folder");
    let dir = tempfile::tempdir().expect("temporary directory");
    let load = Load { oha: &settings.oha, address: scene.server.address(), token: "root", dir: dir.path() };
    for (name, shot) in WORK {
        let data = dir.path().join("perf.data");
        record(&scene, &data, || {
            let sample = load.run(&shot(&place), CONNECTIONS, Until::Seconds(settings.seconds * 3));
            assert_eq!(sample.failed, 0, "requests failed");
        });
        let script = Command::new("perf")
            .args(["script", "-F", "comm,pid,ip,sym", "--no-inline", "-i"])
            .arg(&data)
            .output()
            .expect("run perf script");
        let text = String::from_utf8_lossy(&script.stdout);
        for (what, pid, layers) in [("plugin", scene.pid(OURS), PLUGIN), ("server", Some(scene.server.pid()), SERVER)] {
            let stacks = Stacks::read(&text, pid.expect("a process"));
            println!("\n### {name}: the {what}\n\n{}", stacks.markdown(layers));
            let folded = folder.join(format!("{}-{what}.folded", name.replace(' ', "-")));
            std::fs::write(&folded, stacks.folded()).expect("write the stacks");
            say(&format!("{} samples of the {what}; stacks are in {}", stacks.len(), folded.display()));
        }
    }
    Ok(())
}

/// Lets perf look at the plugin and the server while something runs.
fn record(scene: &Scene, data: &Path, work: impl FnOnce()) {
    let pids = format!("{},{}", scene.pid(OURS).expect("the plugin runs"), scene.server.pid());
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
