//! Expands a pattern to the paths that help and OpenAPI show.

/// Returns the paths that a pattern matches, shortest first. A named group becomes `{name}`. Each choice in the pattern
/// becomes a path: `roles/?` becomes `roles` and `roles/`.
///
/// It understands literals, escapes, groups, alternatives and `?`. Any other syntax, such as a class outside a named
/// group, is shown unchanged.
pub(super) fn expand(pattern: &str) -> Vec<String> {
    let mut paths = alternatives(&mut pattern.chars().peekable());
    paths.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    paths.dedup();
    paths
}

/// Returns an expanded path with `text` for each group.
pub(super) fn fill(path: &str, text: &str) -> String {
    let mut parts = path.split('{');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |filled, part| filled + text + part.split_once('}').map_or("", |(_, rest)| rest))
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// Reads up to the end of the group.
fn alternatives(chars: &mut Chars<'_>) -> Vec<String> {
    let mut done = Vec::new();
    let mut paths = vec![String::new()];
    while let Some(c) = chars.next() {
        let mut parts = match c {
            ')' => break,
            '|' => {
                done.append(&mut paths);
                paths.push(String::new());
                continue;
            }
            '(' => group(chars),
            '\\' => chars.next().map(String::from).into_iter().collect(),
            c => vec![c.to_string()],
        };
        if chars.next_if_eq(&'?').is_some() {
            parts.insert(0, String::new());
        }
        paths = paths.iter().flat_map(|path| parts.iter().map(move |part| format!("{path}{part}"))).collect();
    }
    done.append(&mut paths);
    done
}

/// Reads a group after its parenthesis: a named group `?P<name>…)` or `?<name>…)` gives its name, another group gives
/// its alternatives.
fn group(chars: &mut Chars<'_>) -> Vec<String> {
    if chars.next_if_eq(&'?').is_none() {
        return alternatives(chars);
    }
    let kind: String = std::iter::from_fn(|| chars.next_if(|c| !matches!(c, '<' | ':'))).collect();
    let named = chars.next() == Some('<');
    debug_assert!(matches!(kind.as_str(), "P" | ""), "flags in patterns are not known");
    if !named {
        return alternatives(chars);
    }
    let name: String = chars.by_ref().take_while(|c| *c != '>').collect();
    skip(chars);
    vec![format!("{{{name}}}")]
}

/// Skips the rest of a group.
fn skip(chars: &mut Chars<'_>) {
    let (mut depth, mut class) = (1, false);
    while depth > 0 {
        match chars.next() {
            None => return,
            Some('\\') => _ = chars.next(),
            Some('[') => class = true,
            Some(']') => class = false,
            Some('(') if !class => depth += 1,
            Some(')') if !class => depth -= 1,
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn patterns_are_shown_as_paths() {
        let cases: &[(&str, &[&str])] = &[
            ("config", &["config"]),
            ("roles/?", &["roles", "roles/"]),
            (r"creds/(?P<org>\w(([\w\-.()]+)?\w)?)/(?P<role>[^/]+)", &["creds/{org}/{role}"]),
            ("a(/(?<b>.+))?", &["a", "a/{b}"]),
            ("a/(?:b|c)/d", &["a/b/d", "a/c/d"]),
            (r"a\.b|c", &["c", "a.b"]),
            ("", &[""]),
        ];
        for (pattern, paths) in cases {
            assert_eq!(expand(pattern), *paths, "{pattern}");
        }
    }
}
