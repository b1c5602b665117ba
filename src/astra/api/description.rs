//! The description of a token in Astra, and the marker at its end.
//!
//! Architecture invariant: the marker is written and read here only.

/// Most characters of a description.
const MAX_CHARS: usize = 255;

/// What stands before the marker.
const BEFORE_MARKER: &str = " id=";

/// Returns a description that Astra accepts. The marker is at its end and never cut: with it, the token is found if the
/// answer of Astra is lost.
pub(crate) fn describe(text: &str, marker: &str) -> String {
    let tail = format!("{BEFORE_MARKER}{marker}");
    let safe = text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '_' });
    safe.take(MAX_CHARS.saturating_sub(tail.len())).collect::<String>() + &tail
}

/// Whether a description has this marker.
pub(super) fn is_marked(description: &str, marker: &str) -> bool {
    description.strip_suffix(marker).is_some_and(|text| text.ends_with(BEFORE_MARKER))
}
