//! A child process that cannot outlive the tests.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::wait;

/// Runs a command in the background. When standard input ends, kills the command and its whole process group.
///
/// Rust does not drop statics, and a test run can be killed. But a pipe always closes, so a pipe triggers the kill. A
/// large process needs a moment to die, so the shell waits: when the shell is gone, the command is gone.
const GUARD: &str = r#"
log=$1 dir=$2
shift 2
"$@" </dev/null >>"$log" 2>&1 &
pid=$!
echo "$pid"
read -r word
kill -9 "$pid"
wait "$pid"
[ "$word" = keep ] || rm -rf "$dir"
kill -9 0
"#;

/// A command, its children, and the shell that guards them.
pub(crate) struct Process {
    guard: Child,
    lifeline: Option<ChildStdin>,
    pid: u32,
}

impl Process {
    /// Starts `command` and appends its output to `log`. The directory `dir` is removed when the process ends.
    pub(crate) fn spawn(command: &mut Command, log: &Path, dir: &Path) -> Self {
        let mut guard = Command::new("sh");
        guard.args(["-c", GUARD, "guard"]).arg(log).arg(dir).arg(command.get_program()).args(command.get_args());
        guard.env_clear();
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                guard.env(name, value);
            }
        }
        let errors = File::options().create(true).append(true).open(log).expect("open log");
        guard.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).process_group(0);
        let mut guard = guard.spawn().expect("start a shell");
        let mut line = String::new();
        BufReader::new(guard.stdout.take().expect("piped")).read_line(&mut line).expect("read the process id");
        let pid = line.trim().parse().expect("process id");
        Self { lifeline: guard.stdin.take(), guard, pid }
    }

    /// Returns the process id of the command itself.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Asks the command to stop and waits until it has stopped. Kills processes that the command leaves behind. The
    /// directory stays.
    pub(crate) fn stop(mut self) {
        signal(self.pid, Signal::TERM);
        wait("the process to stop", Duration::from_secs(30), || (!alive(self.pid)).then_some(()));
        self.release(true);
    }

    /// Kills only the command, as a crash would. Its children must notice.
    pub(crate) fn kill(&self) {
        signal(self.pid, Signal::KILL);
        wait("the process to die", Duration::from_secs(10), || (!alive(self.pid)).then_some(()));
    }

    fn release(&mut self, keep: bool) {
        if let Some(mut lifeline) = self.lifeline.take() {
            if keep {
                // The shell may be gone already with its process group. Then there is no directory to keep.
                let _ = std::io::Write::write_all(&mut lifeline, b"keep\n");
            }
            drop(lifeline);
            let _ = self.guard.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.release(false);
    }
}

/// Sends a signal. The process may be gone already.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Returns whether a process runs. A zombie does not run.
pub(crate) fn alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// Returns whether no thread of a process runs or waits for a disk.
pub(crate) fn is_idle(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("list the threads");
    let ids = threads.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    // A thread that has ended in the meantime has no state.
    ids.filter_map(stat).all(|(state, _)| state == 'S')
}

/// Returns the ids of the running children of a process, sorted.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let mut found: Vec<u32> = fs::read_dir("/proc")
        .expect("list /proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&pid| stat(pid).is_some_and(|(state, of)| of == parent && state != 'Z'))
        .collect();
    found.sort_unstable();
    found
}

/// Returns state and parent of a process. The name before them can contain any character, so the search starts after
/// the name.
fn stat(pid: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
