//! The unix socket that the host connects to.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;
use uuid::Uuid;

use super::env::Environment;

/// A socket that is removed when this is dropped, and the directory that was made for it.
pub(super) struct Socket {
    path: PathBuf,
    directory: Option<PathBuf>,
}

impl Socket {
    /// Returns the path of the socket.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Whatever is left is only a name; the process is about to end.
        let _ = fs::remove_file(&self.path);
        if let Some(directory) = &self.directory {
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Listens on a fresh socket.
///
/// A directory given by the host gets the socket itself, because hosts of containers see the last part of the path only
/// (plugincontainer, `PluginToHost`). Elsewhere the socket gets a directory that no other user can look into.
pub(super) fn bind(environment: &Environment) -> io::Result<(UnixListener, Socket)> {
    let unique = Uuid::new_v4().simple().to_string();
    let gid = environment.socket_group.as_deref().map(group_id).transpose()?;
    let socket = match &environment.socket_dir {
        Some(directory) => Socket { path: directory.join(format!("plugin{}", &unique[..8])), directory: None },
        None => {
            let directory = std::env::temp_dir().join(format!("plugin{}", &unique[..8]));
            DirBuilder::new().mode(0o700).create(&directory)?;
            Socket { path: directory.join("s"), directory: Some(directory) }
        }
    };
    let listener = UnixListener::bind(&socket.path)?;
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

/// Returns the id of a group given by number or by name.
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

    #[test]
    fn groups_are_found_by_name() {
        let file = "root:x:0:\nvault-users:x:1042:a,b\nbroken\nvault:x:1043:";
        assert_eq!(find_group(file, "vault"), Some(1043));
        assert_eq!(find_group(file, "broken"), None);
        assert_eq!(find_group(file, "nobody"), None);
    }
}
