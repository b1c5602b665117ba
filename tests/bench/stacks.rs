//! Reads stack samples of a process, and counts them by function and layer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The sampled stacks of one process and their counts. A stack goes from the outermost function to the innermost.
pub(crate) struct Stacks(BTreeMap<Vec<String>, u64>);

/// A layer of a process: its name, and prefixes of the names of its functions.
pub(crate) type Layer = (&'static str, &'static [&'static str]);

/// The layers of the plugin. A sample belongs to the layer of the innermost function that has a layer.
pub(crate) const PLUGIN: &[Layer] = &[
    ("TLS", &["rustls", "tokio_rustls", "aws_lc", "bssl", "EVP", "CRYPTO", "aesni", "gcm", "aes_", "vpaes", "chacha"]),
    ("HTTP/2 and gRPC", &["h2", "hyper", "tonic", "http", "tower", "prost", "bytes", "httparse", "reqwest"]),
    ("runtime", &["tokio", "mio", "futures", "std::thread", "parking_lot"]),
    ("logging", &["tracing", "vault_plugin_sdk::process::log"]),
    ("JSON", &["serde", "serde_json", "vault_plugin_sdk::wire::convert"]),
    ("framework and engine", &["vault_plugin_astra", "regex_lite", "jiff", "sha2", "uuid"]),
    ("allocator", &["malloc", "free", "realloc", "_int_", "__libc_malloc", "cfree", "calloc", "unlink_chunk"]),
];

pub(crate) const SERVER: &[Layer] = &[
    ("TLS", &["crypto/", "vendor/golang.org/x/crypto"]),
    (
        "gRPC and HTTP/2 to the plugin",
        &["google.golang.org/grpc", "golang.org/x/net/http2", "google.golang.org/protobuf"],
    ),
    ("plugin host", &["github.com/openbao/openbao/sdk/v2/plugin", "github.com/hashicorp/go-plugin"]),
    ("HTTP to the client", &["net/http", "net/textproto", "bufio"]),
    ("JSON", &["encoding/json", "github.com/mitchellh/mapstructure"]),
    ("server's own", &["github.com/openbao", "github.com/hashicorp"]),
    (
        "Go runtime: memory, scheduling",
        &["runtime", "sync", "internal/", "time", "context", "syscall", "net.", "gogo", "gcWriteBarrier"],
    ),
];

const KERNEL: &str = "kernel";

const OTHER: &str = "other";

impl Stacks {
    /// Parses the output of `perf script` for a process.
    pub(crate) fn read(script: &str, pid: u32) -> Self {
        let mut stacks = BTreeMap::new();
        for sample in script.split("\n\n") {
            let mut lines = sample.lines().skip_while(|line| line.trim().is_empty());
            let head = lines.next().unwrap_or_default();
            if head.split_whitespace().last().and_then(|word| word.trim_end_matches(':').parse().ok()) != Some(pid) {
                continue;
            }
            let mut stack: Vec<String> = lines.filter_map(frame).collect();
            stack.reverse();
            *stacks.entry(stack).or_default() += 1;
        }
        Self(stacks)
    }

    /// Returns the number of samples.
    pub(crate) fn len(&self) -> u64 {
        self.0.values().sum()
    }

    /// Returns the stacks in the folded form for flame graphs.
    pub(crate) fn folded(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, (stack, count)| {
            writeln!(text, "{} {count}", stack.join(";")).expect("write into a text");
            text
        })
    }

    /// Returns the share of each layer, and the functions with the largest shares, including the functions that they
    /// call. Leaves out kernel functions.
    pub(crate) fn markdown(&self, layers: &[Layer]) -> String {
        const MOST: usize = 24;
        let mut text = String::from("| layer | share |\n| --- | --: |\n");
        for (layer, count) in self.counted(|stack| BTreeSet::from([layer_of(stack, layers).to_owned()])) {
            writeln!(text, "| {layer} | {} |", self.share(count)).expect("write into a text");
        }
        text.push_str("\n```text\n share  function, with all that it calls\n");
        let is_user = |name: &&String| !name.starts_with('[');
        let functions = self.counted(|stack| stack.iter().filter(is_user).map(|name| short(name)).collect());
        for (name, count) in functions.into_iter().take(MOST) {
            writeln!(text, "{:>6}  {name}", self.share(count)).expect("write into a text");
        }
        text.push_str("```");
        text
    }

    /// Counts the samples by the names that `of` returns for a stack, the largest count first.
    fn counted(&self, of: impl Fn(&[String]) -> BTreeSet<String>) -> Vec<(String, u64)> {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for (stack, count) in &self.0 {
            for name in of(stack) {
                *counts.entry(name).or_default() += count;
            }
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts
    }

    #[expect(clippy::cast_precision_loss, reason = "a share")]
    fn share(&self, count: u64) -> String {
        format!("{:.1} %", count as f64 * 100.0 / self.len().max(1) as f64)
    }
}

/// Returns the function name in a line `<address> <name>`. Marks functions of the kernel.
fn frame(line: &str) -> Option<String> {
    let (address, name) = line.trim().split_once(' ')?;
    let name = name.trim();
    Some(if address.starts_with("ffffffff") { format!("[{KERNEL}] {name}") } else { name.replace(';', ":") })
}

fn layer_of<'a>(stack: &[String], layers: &[(&'a str, &[&str])]) -> &'a str {
    if stack.last().is_some_and(|name| name.starts_with('[') && name.contains(KERNEL)) {
        return KERNEL;
    }
    let found = stack.iter().rev().find_map(|name| {
        let name = name.trim_start_matches(['<', '&', '_']);
        layers.iter().find(|(_, begins)| begins.iter().any(|begin| name.starts_with(begin)))
    });
    found.map_or(OTHER, |(layer, _)| layer)
}

/// Returns a function name without type arguments and hash.
fn short(name: &str) -> String {
    let (mut short, mut depth) = (String::new(), 0_u32);
    // A name like `<Type as Trait>::function` starts with a bracket that does not enclose type arguments.
    let name = name.strip_prefix('<').unwrap_or(name);
    let mut before = ' ';
    for c in name.chars() {
        match c {
            '<' => depth += 1,
            '>' if before != '-' => depth = depth.saturating_sub(1),
            c if depth == 0 => short.push(c),
            _ => {}
        }
        before = c;
    }
    match short.rfind("::h") {
        Some(at) if short.len() == at + 19 => short[..at].to_owned(),
        _ => short,
    }
}
