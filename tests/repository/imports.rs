//! Finds imports that go against the order of the modules of a folder.
//!
//! This module reads tokens. So it finds `use` trees, and paths in expressions and macros, and ignores comments and
//! string literals. Tests may import anything, so modules and items behind `#[cfg(test)]` are ignored.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::path::Path;
use std::{fs, vec};

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// The modules of one folder, and their allowed imports.
pub(crate) struct Layers {
    /// The folder, from the root of the repository. Its own `mod.rs`, `lib.rs` and `main.rs` may import all modules.
    pub(crate) folder: &'static str,
    /// The path of the folder's module in its crate. Empty for the crate's root folder.
    pub(crate) module: &'static [&'static str],
    /// The modules in order. Each module may import the modules before it.
    pub(crate) order: &'static [&'static str],
    /// Forbidden imports (importer, imported module) that the order alone would allow.
    pub(crate) never: &'static [(&'static str, &'static str)],
    /// Whether the folder may have more modules. They may import the modules of the order, but no module may import
    /// them.
    pub(crate) open: bool,
}

/// A Rust file of the folder.
pub(crate) struct Source {
    /// Path in the folder.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// An imported path, from the root of the crate.
struct Import {
    from: Vec<String>,
    to: Vec<String>,
    line: usize,
}

/// The findings of one file.
#[derive(Default)]
struct Found {
    imports: Vec<Import>,
    /// Modules that are only for tests.
    test_modules: BTreeSet<Vec<String>>,
}

impl Layers {
    /// Checks the repository's own files. Returns one line for each broken rule.
    pub(crate) fn check(&self) -> Vec<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(self.folder);
        let sources = super::layering::rust_files(&folder).into_iter().map(|file| Source {
            path: file.strip_prefix(&folder).unwrap().to_str().unwrap().to_owned(),
            text: fs::read_to_string(&file).unwrap(),
        });
        self.check_sources(&sources.collect::<Vec<_>>())
    }

    /// Checks these files. Returns one line for each broken rule: file, line, importer and imported module.
    pub(crate) fn check_sources(&self, sources: &[Source]) -> Vec<String> {
        let root: Vec<String> = self.module.iter().map(|name| (*name).to_owned()).collect();
        let files: Vec<_> = sources.iter().map(|source| (source, read(source, &root))).collect();
        let test_modules: BTreeSet<_> = files.iter().flat_map(|(_, found)| &found.test_modules).collect();
        let is_test = |module: &[String]| (0..=module.len()).any(|end| test_modules.contains(&module[..end].to_vec()));
        let mut broken = Vec::new();
        let mut modules = BTreeSet::new();
        for (source, found) in &files {
            let module = module_of(&source.path, &root);
            let Some(layer) = module.get(root.len()).filter(|_| !is_test(&module)) else { continue };
            modules.insert(layer.clone());
            for import in found.imports.iter().filter(|import| !is_test(&import.from)) {
                if let Some(edge) = self.broken_edge(layer, &import.to) {
                    broken.push(format!("{}/{}:{}: {edge}", self.folder, source.path, import.line));
                }
            }
        }
        let missing = self.order.iter().filter(|name| !modules.contains(**name));
        broken.extend(missing.map(|name| format!("{}: the order names {name:?}, which is no module", self.folder)));
        let unknown = modules.iter().filter(|name| !self.open && !self.order.contains(&name.as_str()));
        broken.extend(unknown.map(|name| format!("{}: the order does not name {name:?}", self.folder)));
        broken
    }

    /// Returns the broken rule, if an import from this module breaks a rule.
    fn broken_edge(&self, from: &str, to: &[String]) -> Option<String> {
        let inside = to.iter().map(String::as_str).take(self.module.len()).eq(self.module.iter().copied());
        if !inside {
            return None;
        }
        let Some(name) = to.get(self.module.len()) else {
            return Some(format!("{from} imports the module above it"));
        };
        let position = |name: &str| self.order.iter().position(|known| *known == name);
        match (position(from), position(name)) {
            _ if from == name => None,
            (_, None) => Some(format!("{from} imports {name:?} from the module above it; name the module that has it")),
            (Some(from_at), Some(to_at)) if to_at > from_at => {
                Some(format!("{from} imports {name}, which is above it"))
            }
            _ if self.never.contains(&(from, name)) => Some(format!("{from} imports {name}, which it must not know")),
            _ => None,
        }
    }
}

/// Returns the path of a file's module.
fn module_of(path: &str, root: &[String]) -> Vec<String> {
    let mut module = root.to_vec();
    let names = path.trim_end_matches(".rs").split('/').map(str::to_owned);
    module.extend(names);
    if module.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
        module.pop();
    }
    module
}

fn read(source: &Source, root: &[String]) -> Found {
    let tokens: TokenStream = source.text.parse().unwrap_or_else(|error| panic!("{}: {error}", source.path));
    let mut found = Found::default();
    walk(tokens, &module_of(&source.path, root), &mut found);
    found
}

type Tokens = Peekable<vec::IntoIter<TokenTree>>;

fn tokens(stream: TokenStream) -> Tokens {
    stream.into_iter().collect::<Vec<_>>().into_iter().peekable()
}

/// Collects the imports in the tokens of `module`.
fn walk(stream: TokenStream, module: &[String], found: &mut Found) {
    let mut tokens = tokens(stream);
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                if is_test_only(&mut tokens)
                    && let Some(name) = skip_item(&mut tokens)
                {
                    found.test_modules.insert([module, &[name]].concat());
                }
            }
            TokenTree::Ident(ident) if ident == "pub" => {
                // The path in `pub(in …)` is not an import.
                tokens.next_if(
                    |next| matches!(next, TokenTree::Group(group) if group.delimiter() == Delimiter::Parenthesis),
                );
            }
            TokenTree::Ident(ident) if ident == "mod" => {
                let Some(TokenTree::Ident(name)) = tokens.next() else { continue };
                if let Some(TokenTree::Group(body)) = tokens.next_if(|next| matches!(next, TokenTree::Group(_))) {
                    walk(body.stream(), &[module, &[name.to_string()]].concat(), found);
                }
            }
            TokenTree::Ident(ident) => {
                let start = match ident.to_string().as_str() {
                    "crate" => Vec::new(),
                    "self" => module.to_vec(),
                    "super" => parent(module),
                    _ => continue,
                };
                let line = ident.span().start().line;
                if let Some(next) = segment(&mut tokens) {
                    let mut ends = Vec::new();
                    path(start, next, &mut tokens, &mut ends);
                    found.imports.extend(ends.into_iter().map(|(to, at)| Import {
                        from: module.to_vec(),
                        to,
                        line: at.unwrap_or(line),
                    }));
                }
            }
            TokenTree::Group(group) => walk(group.stream(), module, found),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

fn parent(module: &[String]) -> Vec<String> {
    module[..module.len().saturating_sub(1)].to_vec()
}

/// Takes `::` and the next token.
fn segment(tokens: &mut Tokens) -> Option<TokenTree> {
    for _ in 0..2 {
        tokens.next_if(|next| matches!(next, TokenTree::Punct(punct) if punct.as_char() == ':'))?;
    }
    tokens.next()
}

/// The ends of a path, each in full. The line is `None` if it equals the line of the path's start.
type Ends = Vec<(Vec<String>, Option<usize>)>;

/// Follows a path or a `use` tree to all of its ends.
fn path(mut so_far: Vec<String>, next: TokenTree, tokens: &mut Tokens, ends: &mut Ends) {
    match next {
        TokenTree::Ident(ident) => {
            match ident.to_string().as_str() {
                "super" => so_far = parent(&so_far),
                "self" => {}
                name => so_far.push(name.to_owned()),
            }
            match segment(tokens) {
                Some(next) => path(so_far, next, tokens, ends),
                None => ends.push((so_far, Some(ident.span().start().line))),
            }
        }
        TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => tree(&so_far, &group, ends),
        // `*` imports from the module itself. Any other token belongs to an expression, such as `::<T>`.
        TokenTree::Punct(_) | TokenTree::Group(_) | TokenTree::Literal(_) => ends.push((so_far, None)),
    }
}

/// Follows each branch of `{a, b::c}`.
fn tree(so_far: &[String], group: &Group, ends: &mut Ends) {
    let mut tokens = tokens(group.stream());
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == ',' => {}
            token => {
                path(so_far.to_vec(), token, &mut tokens, ends);
                // Skips `as name`.
                while tokens
                    .next_if(|next| !matches!(next, TokenTree::Punct(punct) if punct.as_char() == ','))
                    .is_some()
                {}
            }
        }
    }
}

/// Takes an attribute, and returns whether its item is only for tests.
fn is_test_only(tokens: &mut Tokens) -> bool {
    let Some(TokenTree::Group(attribute)) = tokens.next_if(|next| matches!(next, TokenTree::Group(_))) else {
        return false;
    };
    let text = attribute.stream().to_string();
    let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    let is_cfg = words.next() == Some("cfg");
    // Users of the crate can enable a feature, so such an item is not only for tests.
    is_cfg && words.clone().any(|word| word == "test") && !words.any(|word| matches!(word, "feature" | "not"))
}

/// Takes an item, and returns its name if it is a module.
fn skip_item(tokens: &mut Tokens) -> Option<String> {
    let (mut module, mut is_use) = (None, false);
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(ident) if ident == "use" => is_use = true,
            TokenTree::Ident(ident) if ident == "mod" => module = tokens.peek().map(ToString::to_string),
            TokenTree::Punct(punct) if punct.as_char() == ';' => break,
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace && !is_use => break,
            _ => {}
        }
    }
    module
}

/// The rules of a small crate: the order is `low`, `mid`, `high`, and `high` must not import `low`.
const SMALL: Layers = Layers {
    folder: "src",
    module: &["house"],
    order: &["low", "mid", "high"],
    never: &[("high", "low")],
    open: false,
};

/// Checks three files. `mid.rs` has this text.
fn with_mid(text: &str) -> Vec<String> {
    let source = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
    SMALL.check_sources(&[
        source("mod.rs", "mod high; mod low; mod mid; #[cfg(test)] mod world; pub use self::high::High;"),
        source("low/mod.rs", "mod deep;"),
        source("low/deep.rs", "use super::Depth; use super::super::low::deep;"),
        source("mid.rs", text),
        source("high.rs", "use super::mid; fn f() { mid::run() }"),
        source("world.rs", "use super::high; use super::low;"),
    ])
}

#[test]
fn imports_that_follow_the_order_are_fine() {
    let fine = [
        "use super::low::{self, deep::{Depth as D, *}};",
        "use crate::house::low; use crate::other::high; use std::fmt;",
        "fn f() { crate::house::low::deep::<u8>() }",
        "use self::inner::high; mod inner { pub(in crate::house::high) fn high() { super::super::low::f() } }",
        "// super::high\n/// crate::house::high\nconst TEXT: &str = \"super::high\";",
        "#[cfg(test)] mod tests { use crate::house::high; }",
        "#[cfg(any(test, fuzzing))] pub use super::high::{a, b}; use super::low;",
    ];
    for text in fine {
        assert_eq!(with_mid(text), [""; 0], "{text}");
    }
}

#[test]
fn an_import_that_is_turned_round_is_named_with_file_line_and_edge() {
    let turned = [
        "use super::high;",
        "use crate::house::{low, high::High};",
        "fn f() { let high = super::high::High; }",
        "fn f() { vec![crate::house::high::High] }",
        "mod inner { use super::super::high; }",
        "#[cfg(feature = \"testing\")] use super::high;",
        "#[cfg(not(test))] use super::high;",
        "macro_rules! m { () => { $crate::house::high::High } }",
    ];
    for text in turned {
        assert_eq!(with_mid(&format!("\n{text}")), ["src/mid.rs:2: mid imports high, which is above it"], "{text}");
    }
    let tree = "use super::{\n    low,\n    high,\n};";
    assert_eq!(with_mid(tree), ["src/mid.rs:3: mid imports high, which is above it"]);
}

#[test]
fn what_the_module_above_passes_on_is_no_way_round_the_order() {
    let from_above = "src/mid.rs:1: mid imports \"High\" from the module above it; name the module that has it";
    assert_eq!(with_mid("use super::High;"), [from_above]);
    for text in ["use super::*;", "use crate::house;", "use crate::house as h;", "use super::{self};"] {
        assert_eq!(with_mid(text), ["src/mid.rs:1: mid imports the module above it"], "{text}");
    }
}

#[test]
fn a_pair_that_must_not_know_each_other_is_named() {
    let sources =
        ["low", "mid", "high"].map(|name| Source { path: format!("{name}.rs"), text: "use super::low;".into() });
    assert_eq!(SMALL.check_sources(&sources), ["src/high.rs:1: high imports low, which it must not know"]);
}

#[test]
fn an_open_folder_has_modules_on_top_that_no_module_imports() {
    let open = Layers { folder: "src", module: &["house"], order: &["low"], never: &[], open: true };
    let source = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
    let fine = [source("low.rs", ""), source("one.rs", "use super::low; use super::one::inner;"), source("two.rs", "")];
    assert_eq!(open.check_sources(&fine), [""; 0]);
    let broken = [source("low.rs", "use super::one;"), source("one.rs", ""), source("two.rs", "use super::one;")];
    let above = "from the module above it; name the module that has it";
    let expected = ["low", "two"].map(|name| format!("src/{name}.rs:1: {name} imports \"one\" {above}"));
    assert_eq!(open.check_sources(&broken), expected);
}

#[test]
fn the_order_and_the_folder_name_the_same_modules() {
    let sources = ["low", "mid", "new"].map(|name| Source { path: format!("{name}.rs"), text: String::new() });
    let expected = ["src: the order names \"high\", which is no module", "src: the order does not name \"new\""];
    assert_eq!(SMALL.check_sources(&sources), expected);
}
