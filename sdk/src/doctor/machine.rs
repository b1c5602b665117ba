//! Checks of the file of the plugin and of the machine.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::Check;
use super::report::platform;
use crate::plugin::Plugin;
use crate::process;

/// Checks the file of the plugin, its permissions and its digest, and the directory for sockets. Makes a socket in this
/// directory, and removes the socket.
///
/// Run the checks on the machine of the server, as the user of the server.
pub fn machine(plugin: &Plugin) -> Vec<Check> {
    let commit = plugin.commit.filter(|commit| !commit.is_empty()).unwrap_or("unknown");
    let build = Check::ok("build", format!("commit {commit}, for {}", platform()));
    let mut checks = vec![build];
    match started_file() {
        Ok(path) => checks.extend([file(&path), permissions(&path), digest(plugin, &path)]),
        Err(error) => {
            checks.push(Check::failed("file", format!("it cannot be found: {error}"), "run it by its full path"))
        }
    }
    checks.push(sockets());
    checks
}

/// Returns the path by which the binary was started. `current_exe` would not show a symbolic link.
fn started_file() -> std::io::Result<PathBuf> {
    let real = std::env::current_exe()?;
    let Some(typed) = std::env::args_os().next().map(PathBuf::from) else { return Ok(real) };
    let is_same = |path: &PathBuf| fs::canonicalize(path).is_ok_and(|target| target == real);
    let typed = if typed.components().count() > 1 {
        Some(std::path::absolute(typed)?)
    } else {
        process::variable("PATH").and_then(|all| in_path(&all, typed.as_os_str()))
    };
    Ok(typed.filter(is_same).unwrap_or(real))
}

fn in_path(all: &str, name: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(all).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Warns of a symbolic link: the server refuses a file whose real path is outside of its plugin directory.
fn file(path: &Path) -> Check {
    match fs::canonicalize(path) {
        Ok(target) if target != path => Check::warning(
            "file",
            format!("{} is a symbolic link, or in one: the file is {}", path.display(), target.display()),
            "copy the file itself into the plugin_directory of the server, and set its real path as plugin_directory",
        ),
        _ => Check::ok("file", path.display().to_string()),
    }
}

/// Warns if other users can change the file: between the server's check of the digest and the start, such a user could replace
/// the file, and run any code as the server.
fn permissions(path: &Path) -> Check {
    let folder = path.parent().unwrap_or(path);
    let (file, folder) = match (fs::metadata(path), fs::metadata(folder)) {
        (Ok(file), Ok(folder)) => (file, folder),
        (Err(error), _) | (_, Err(error)) => {
            return Check::warning(
                "permissions",
                format!("they cannot be read: {error}"),
                "run this as the user of the server",
            );
        }
    };
    let found = format!(
        "file: mode {:04o}, owner {}; directory: mode {:04o}, owner {}; this is user {}",
        file.mode() & 0o7777,
        file.uid(),
        folder.mode() & 0o7777,
        folder.uid(),
        geteuid().as_raw()
    );
    const WRITABLE: u32 = 0o022;
    if (file.mode() | folder.mode()) & WRITABLE != 0 {
        let advice = "other users can replace the file: chmod go-w the file and its directory";
        return Check::warning("permissions", found, advice);
    }
    if ![file.uid(), folder.uid()].iter().all(|owner| [0, geteuid().as_raw()].contains(owner)) {
        let advice =
            "make root or the user of the server the owner of the file and its directory, and run this as that user";
        return Check::warning("permissions", found, advice);
    }
    Check::ok("permissions", found)
}

fn digest(plugin: &Plugin, path: &Path) -> Check {
    match process::sha256(path) {
        Ok(sha256) => Check::ok("sha256", process::register_command(plugin, path, &sha256)),
        Err(error) => Check::warning(
            "sha256",
            format!("the file cannot be read: {error}"),
            "chmod a+r the file, to compare its digest",
        ),
    }
}

fn sockets() -> Check {
    match process::try_socket() {
        Ok(path) => Check::ok("sockets", format!("a socket could be made in {}", path.display())),
        Err(error) => Check::failed(
            "sockets",
            error.to_string(),
            "the server's own environment counts: set it where the server is started",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::Verdict;
    use super::*;

    /// Returns a file in a separate folder. Both have the mode of a sound installation.
    fn installed() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(folder.path()).unwrap().join("plugin");
        fs::write(&path, "x").unwrap();
        mode(&path, 0o755);
        mode(folder.path(), 0o755);
        (folder, path)
    }

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_sound_installation_has_no_warning() {
        let (_folder, path) = installed();
        for check in [file(&path), permissions(&path), digest(&Plugin::new("cards", "1.2.3"), &path), sockets()] {
            assert_eq!(check.verdict(), Verdict::Ok, "{check:?}");
        }
    }

    #[test]
    fn a_file_that_others_can_replace_is_a_warning() {
        let (folder, path) = installed();
        mode(&path, 0o775);
        assert!(permissions(&path).advice.contains("chmod go-w"));
        mode(&path, 0o755);
        mode(folder.path(), 0o777);
        assert!(permissions(&path).advice.contains("chmod go-w"));
    }

    #[test]
    fn a_symbolic_link_is_a_warning() {
        let (folder, path) = installed();
        let link = fs::canonicalize(folder.path()).unwrap().join("link");
        symlink(&path, &link).unwrap();
        let check = file(&link);
        assert!(check.verdict() == Verdict::Warning && check.found.contains(path.to_str().unwrap()), "{check:?}");
    }

    #[test]
    fn a_name_is_searched_in_the_path() {
        let (folder, path) = installed();
        let all = format!("/nowhere:{}", path.parent().unwrap().display());
        assert_eq!(in_path(&all, OsStr::new("plugin")), Some(path));
        assert_eq!(in_path(&all, OsStr::new("other")), None);
        drop(folder);
    }
}
