//! Checks the layers of the code: modules import each other in one direction only.

use std::fs;
use std::path::{Path, PathBuf};

use super::imports::Layers;

/// The layers, from the folder's root module down. A module may import the modules before it.
const LAYERS: &[Layers] = &[
    // `process <- wire -> logical <- framework`
    Layers {
        folder: "sdk/src",
        module: &[],
        order: &[
            "plugin",
            "locks",
            "context",
            "tasks",
            "pb",
            "process",
            "doctor",
            "logical",
            "wire",
            "framework",
            "fuzz",
            "testing",
        ],
        never: &[
            ("process", "locks"),
            ("logical", "pb"),
            ("logical", "process"),
            ("framework", "pb"),
            ("framework", "process"),
            ("framework", "wire"),
        ],
        open: false,
    },
    Layers {
        folder: "sdk/src/process",
        module: &["process"],
        order: &[
            "env",
            "memory",
            "handshake",
            "manual",
            "log",
            "listener",
            "mtls",
            "cork",
            "delivery",
            "pings",
            "socket",
            "broker",
            "control",
            "messages",
            "server",
            "services",
            "serve",
            "mux",
        ],
        never: &[],
        open: false,
    },
    Layers {
        folder: "sdk/src/logical",
        module: &["logical"],
        order: &["data", "storage", "error", "lease", "request", "response", "system", "backend"],
        never: &[],
        open: false,
    },
    Layers {
        folder: "sdk/src/wire",
        module: &["wire"],
        order: &[
            "version", "convert", "answer", "early", "limits", "watch", "channel", "unary", "storage", "system",
            "backend",
        ],
        never: &[],
        open: false,
    },
    Layers {
        folder: "sdk/src/framework",
        module: &["framework"],
        order: &[
            "lower",
            "duration",
            "field",
            "coerce",
            "fields",
            "pattern",
            "path",
            "secret",
            "wal",
            "declaration",
            "openapi",
            "help",
            "mounted",
        ],
        never: &[],
        open: false,
    },
    Layers {
        folder: "src",
        module: &[],
        order: &[
            "names",
            "clock",
            "api",
            "error",
            "metrics",
            "store",
            "locks",
            "backoff",
            "outage",
            "schedule",
            "backlog",
            "health",
            "clients",
            "events",
            "engine",
            "identity",
            "metadata",
            "inventory",
            "journal",
            "tokens",
            "statics",
            "rotate",
            "upkeep",
            "paths",
            "doctor",
        ],
        never: &[("store", "api"), ("paths", "clients"), ("locks", "store")],
        open: false,
    },
    Layers {
        folder: "src/api",
        module: &["api"],
        order: &[
            "body",
            "proxy",
            "connect",
            "resolve",
            "description",
            "meter",
            "error",
            "delete",
            "retry",
            "types",
            "roles",
            "list",
            "described",
            "listing",
            "queue",
            "settings",
            "answer",
            "pool",
            "probe",
        ],
        never: &[],
        open: false,
    },
    Layers {
        folder: "src/tokens",
        module: &["tokens"],
        order: &[
            "time",
            "request",
            "lease",
            "listing",
            "order",
            "finish",
            "mint_note",
            "undelivered",
            "find",
            "revoke",
            "replace",
            "mint",
            "interrupted",
            "renew",
            "uses",
            "sweep",
            "compare",
            "tidy",
        ],
        never: &[],
        open: false,
    },
    Layers {
        folder: "src/paths",
        module: &["paths"],
        order: &[
            "shared",
            "org",
            "verify",
            "role_ids",
            "role_names",
            "role_metadata",
            "role",
            "token",
            "roles",
            "filters",
            "tokens",
            "status",
            "configs",
            "config",
            "rotate_root",
            "sync",
            "orgs",
        ],
        never: &[],
        open: true,
    },
    Layers {
        folder: "src/store",
        module: &["store"],
        order: &[
            "json",
            "answers",
            "caller_mode",
            "root",
            "entries",
            "role_ids",
            "config_root",
            "filter",
            "keys",
            "cache",
            "directory",
            "record_orgs",
            "counts",
            "roster",
            "client_index",
            "interrupted",
            "uses",
            "replaced",
            "missing",
            "rotations",
            "base",
            "orgs",
            "owner",
            "index",
            "lookup",
            "matching",
            "replacements",
            "limits",
            "deletions",
            "build",
            "tokens",
            "static_roles",
        ],
        never: &[],
        open: false,
    },
];

#[test]
fn modules_import_each_other_in_one_direction() {
    let broken: Vec<String> = LAYERS.iter().flat_map(Layers::check).collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

/// The SDK knows nothing of the engine.
#[test]
fn sdk_does_not_name_the_engine() {
    assert_absent("sdk", &["astra", "Astra", "datastax", "DataStax"]);
}

/// The engine sees plain data and traits, never the wire or the process.
#[test]
fn engine_does_not_name_the_wire() {
    assert_absent("src", &["tonic", "prost"]);
}

fn assert_absent(folder: &str, words: &[&str]) {
    let files = rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    assert!(!files.is_empty(), "no Rust files below {folder}");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            for word in words {
                assert!(!line.contains(word), "{}:{} names {word}", file.display(), number + 1);
            }
        }
    }
}

pub(crate) fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
