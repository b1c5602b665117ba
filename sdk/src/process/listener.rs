//! The unix socket that the host connects to.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;
use uuid::Uuid;

use super::env::Environment;

/// The file of the socket, and the directory created for it. Dropping this removes both.
pub(super) struct SocketFile {
    path: PathBuf,
    directory: Option<PathBuf>,
}

impl SocketFile {
    /// Returns the path of the socket.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Errors are ignored: only a file name would stay, and the process is about to end.
        let _ = fs::remove_file(&self.path);
        if let Some(directory) = &self.directory {
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Listens on a new socket.
///
/// A directory given by the host contains the socket directly, because hosts of containers see only the last part of
/// the path (plugincontainer, `PluginToHost`). Otherwise the socket gets a new directory that no other user can open.
///
/// # Errors
/// The error names the directory and its variable, because the operator sets the variable in the environment of the
/// host.
pub(super) fn bind(environment: &Environment) -> io::Result<(UnixListener, SocketFile)> {
    let gid = environment.socket_group.as_deref().map(group_id).transpose()?;
    let (purpose, directory) = place(environment)?;
    let bound = if directory.to_string_lossy().contains(['|', '\n', '\r']) {
        Err(io::Error::other("its name cannot stand in the handshake line"))
    } else {
        bind_in(&directory, purpose, gid)
    };
    bound.map_err(|error| io::Error::new(error.kind(), format!("no socket can be made in {directory:?}: {error}")))
}

/// Makes a socket where [`bind`] would make it, and removes it. Returns the directory. Needs no async runtime.
///
/// # Errors
/// As [`bind`].
pub(super) fn try_bind(environment: &Environment) -> io::Result<PathBuf> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _entered = runtime.enter();
    let (_listener, _socket) = bind(environment)?;
    place(environment).map(|(_, directory)| directory)
}

/// Returns the directory for sockets.
fn place(environment: &Environment) -> io::Result<(Purpose, PathBuf)> {
    let (purpose, named) = match &environment.socket_dir {
        Some(directory) => (Purpose::Sockets, Some(directory)),
        None => (Purpose::Temporary, environment.temporary_dir.as_ref()),
    };
    Ok((purpose, std::path::absolute(named.map_or(Path::new("/tmp"), PathBuf::as_path))?))
}

/// The purpose of the directory that contains the socket.
#[derive(Clone, Copy)]
enum Purpose {
    /// The host gave the directory only for sockets.
    Sockets,
    /// All users keep temporary files in the directory.
    Temporary,
}

/// Adds advice to an error about the directory.
fn advise(error: &io::Error, purpose: Purpose) -> io::Error {
    let (variable, socket) = match purpose {
        Purpose::Sockets => ("PLUGIN_UNIX_SOCKET_DIR", "/plugin01234567"),
        Purpose::Temporary => ("TMPDIR", "/plugin01234567/s"),
    };
    let longest = SOCKET_PATH - socket.len();
    let advice = "to a directory that the server can write to, with a path of at most";
    io::Error::new(error.kind(), format!("{error}; set {variable} {advice} {longest} bytes"))
}

/// Longest path of a socket in bytes (unix(7)), without the zero byte at the end.
const SOCKET_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

fn bind_in(parent: &Path, purpose: Purpose, gid: Option<u32>) -> io::Result<(UnixListener, SocketFile)> {
    let unique = Uuid::new_v4().simple().to_string();
    let path = parent.join(format!("plugin{}", &unique[..8]));
    let socket = match purpose {
        Purpose::Sockets => SocketFile { path, directory: None },
        Purpose::Temporary => {
            DirBuilder::new().mode(0o700).create(&path).map_err(|error| advise(&error, purpose))?;
            SocketFile { path: path.join("s"), directory: Some(path) }
        }
    };
    let listener = UnixListener::bind(&socket.path).map_err(|error| advise(&error, purpose))?;
    match gid {
        None => fs::set_permissions(&socket.path, Permissions::from_mode(0o600))?,
        Some(gid) => {
            if let Some(directory) = &socket.directory {
                chown(directory, None, Some(gid))?;
                fs::set_permissions(directory, Permissions::from_mode(0o710))?;
            }
            chown(&socket.path, None, Some(gid))?;
            fs::set_permissions(&socket.path, Permissions::from_mode(0o660))?;
        }
    }
    Ok((listener, socket))
}

/// Returns the id of a group, given by number or by name.
fn group_id(group: &str) -> io::Result<u32> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    find_group(&fs::read_to_string("/etc/group")?, group)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no group {group:?} in /etc/group")))
}

/// Lines are `name:password:gid:members` (group(5)).
fn find_group(file: &str, group: &str) -> Option<u32> {
    file.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[tokio::test]
    async fn own_directory_is_private_and_removed() {
        let (_listener, socket) = bind(&Environment::default()).unwrap();
        let (path, directory) = (socket.path.clone(), socket.directory.clone().unwrap());
        assert_eq!(mode(&directory), 0o700);
        drop(socket);
        assert!(!path.exists() && !directory.exists());
    }

    #[tokio::test]
    async fn directory_of_the_host_gets_the_socket_itself() {
        let given = tempfile::tempdir().unwrap();
        let environment = Environment { socket_dir: Some(given.path().into()), ..Environment::default() };
        let (_listener, socket) = bind(&environment).unwrap();
        assert_eq!(socket.path().parent(), Some(given.path()));
        drop(socket);
        assert!(fs::read_dir(given.path()).unwrap().next().is_none());
    }

    #[tokio::test]
    async fn group_may_use_the_socket_and_reach_it() {
        let gid = rustix::process::getgid().as_raw();
        let environment = Environment { socket_group: Some(gid.to_string()), ..Environment::default() };
        let (_listener, socket) = bind(&environment).unwrap();
        assert_eq!(mode(socket.path()), 0o660);
        assert_eq!(mode(socket.directory.as_deref().unwrap()), 0o710);
        assert_eq!(fs::metadata(socket.path()).unwrap().gid(), gid);
    }

    #[tokio::test]
    async fn directory_that_is_of_no_use_is_named() {
        let given = tempfile::tempdir().unwrap();
        let long = given.path().join("x".repeat(200));
        fs::create_dir(&long).unwrap();
        let odd = ["a|b", "a\nb"].map(|name| given.path().join(name));
        odd.iter().for_each(|directory| fs::create_dir(directory).unwrap());
        for directory in [given.path().join("none"), long].into_iter().chain(odd) {
            let environment = Environment { socket_dir: Some(directory.clone()), ..Environment::default() };
            let error = bind(&environment).err().expect("a socket that no host can use").to_string();
            assert!(error.contains(&format!("{directory:?}")), "{error}");
        }
    }

    #[tokio::test]
    async fn directory_has_room_for_a_socket_up_to_the_length_that_is_told() {
        let given = tempfile::tempdir().unwrap();
        let longest = SOCKET_PATH - "/plugin01234567".len();
        for (length, fits) in [(longest, true), (longest + 1, false)] {
            let directory = given.path().join("x".repeat(length - given.path().as_os_str().len() - 1));
            fs::create_dir(&directory).unwrap();
            let environment = Environment { socket_dir: Some(directory), ..Environment::default() };
            let error = bind(&environment).err().map(|error| error.to_string());
            assert_eq!(error.is_none(), fits, "{length}: {error:?}");
            assert!(error.is_none_or(|error| error.contains(&format!("at most {longest} bytes"))));
        }
    }

    #[tokio::test]
    async fn path_is_absolute() {
        let given = tempfile::tempdir().unwrap();
        let up = std::env::current_dir().unwrap().components().skip(1).map(|_| "..").collect::<PathBuf>();
        let relative = up.join(given.path().strip_prefix("/").unwrap());
        let environment = Environment { socket_dir: Some(relative), ..Environment::default() };
        let (_listener, socket) = bind(&environment).unwrap();
        assert!(Path::new(socket.path()).is_absolute());
    }

    #[test]
    fn groups_are_found_by_name() {
        let file = "root:x:0:\nvault-users:x:1042:a,b\nbroken\nvault:x:1043:";
        assert_eq!(find_group(file, "vault"), Some(1043));
        assert_eq!(find_group(file, "broken"), None);
        assert_eq!(find_group(file, "nobody"), None);
    }
}
