//! The description of a token in Astra, and the marker at its end.
//!
//! Architecture invariant: only this module writes and reads markers.

/// The most characters of a description.
const MAX_CHARS: usize = 255;

/// The text before the marker.
const BEFORE_MARKER: &str = " id=";

/// Returns a description that Astra accepts, with the marker at its end. Never shortens the marker: if the answer to a
/// mint is lost, the engine finds the token by its marker.
pub(crate) fn describe(text: &str, marker: &str) -> String {
    let tail = format!("{BEFORE_MARKER}{marker}");
    let safe = text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '_' });
    safe.take(MAX_CHARS.saturating_sub(tail.len())).collect::<String>() + &tail
}

/// Whether a description ends with this marker.
pub(super) fn is_marked(description: &str, marker: &str) -> bool {
    description.strip_suffix(marker).is_some_and(|text| text.ends_with(BEFORE_MARKER))
}
