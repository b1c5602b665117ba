//! Keeps secrets out of the output of a failing test.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

static KNOWN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Remembers a secret that no output may show.
pub(crate) fn hide(secret: impl Into<String>) {
    let secret = secret.into();
    // Redacting a shorter text would hide words that the reader needs.
    if secret.len() >= 8 {
        KNOWN.lock().unwrap_or_else(PoisonError::into_inner).insert(secret);
    }
}

/// Returns the text without known secrets and without texts that look like Astra tokens.
pub(crate) fn clean(text: &str) -> String {
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let text = known.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "[hidden]"));
    drop(known);
    without_tokens(&text)
}

/// Removes `<rest>` from `AstraCS:<id>:<rest>`.
fn without_tokens(text: &str) -> String {
    const MARK: &str = "AstraCS:";
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(MARK) {
        let (before, token) = rest.split_at(start + MARK.len());
        clean.push_str(before);
        let end = token.find(|c: char| !c.is_ascii_alphanumeric() && c != ':').unwrap_or(token.len());
        let (token, after) = token.split_at(end);
        match token.split_once(':') {
            Some((id, _)) => {
                clean.push_str(id);
                clean.push_str(":[hidden]");
            }
            None => clean.push_str(token),
        }
        rest = after;
    }
    clean.push_str(rest);
    clean
}

#[test]
fn failure_text_holds_no_secret() {
    hide("a-known-secret");
    let text = clean("x a-known-secret y AstraCS:abcDEF:0123456789abcdef, AstraCS:ABcDeFg... z");
    assert_eq!(text, "x [hidden] y AstraCS:abcDEF:[hidden], AstraCS:ABcDeFg... z");
}
