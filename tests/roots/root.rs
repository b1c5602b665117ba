//! The root file system of another machine, and a server that runs in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bao::{Options, Server, host_binary};

/// A folder that a server uses as the root of the file system.
pub(crate) struct Root(PathBuf);

impl Root {
    /// Returns a root with Debian, made by `roots.sh`.
    pub(crate) fn debian(suite: &str) -> Self {
        let root = roots().join(suite);
        assert!(root.is_dir(), "{} is missing: run `make test-roots`", root.display());
        Self(root).mounted()
    }

    /// Returns a root that contains only the server, the plugin, and the folder for temporary files.
    ///
    /// The root is never removed: if a mount was left behind, removing the root would delete the files of that mount.
    pub(crate) fn empty(name: &str) -> Self {
        let root = roots().join(name);
        fs::create_dir_all(&root).expect("make a root");
        Self(root).mounted()
    }

    /// Mounts the server, and the folder for temporary files with the plugin, at the same paths in the root.
    fn mounted(self) -> Self {
        let (server, temporary) = (host_binary(), std::env::temp_dir());
        fs::create_dir_all(self.at(server.parent().expect("a folder"))).expect("make a mount point");
        fs::create_dir_all(self.at(&temporary)).expect("make a mount point");
        // Do not truncate the file: if it is already mounted, it is the server's binary.
        fs::File::options().create(true).append(true).open(self.at(&server)).expect("make a mount point");
        for path in [&server, &temporary] {
            let status = Command::new("mount").arg("--bind").args([path, &self.at(path)]).status();
            assert!(status.expect("run mount").success(), "{} cannot be mounted", path.display());
        }
        self
    }

    /// Writes a file of the root.
    pub(crate) fn write(&self, path: &Path, text: &str) {
        let file = self.at(path);
        fs::create_dir_all(file.parent().expect("a folder")).expect("make a folder of a root");
        // A symbolic link could point out of the root, so it is removed before the write.
        let _ = fs::remove_file(&file);
        fs::write(file, text).expect("write a file of a root");
    }

    /// Whether a dynamically linked program of this root finds an address of a host.
    pub(crate) fn resolves(&self, host: &str) -> bool {
        let found = Command::new("chroot").arg(&self.0).args(["getent", "hosts", host]).output();
        found.expect("run chroot").status.success()
    }

    /// Starts a server in the root.
    pub(crate) fn server(&self) -> Server {
        Server::dev_with(&Options { chroot: Some(self.0.clone()), ..Options::default() })
    }

    fn at(&self, path: &Path) -> PathBuf {
        self.0.join(path.strip_prefix("/").expect("an absolute path"))
    }
}

fn roots() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/roots")
}
