//! The description of a token in Astra, which begins with the marker: `vault <instance>/<marker> …`.
//!
//! The instance tells apart the tokens of two mounts. The marker identifies the order of a token. Both are at the
//! beginning, because a service can cut off the end of a description.
//!
//! Architecture invariant: only this module writes and reads markers.

/// The most characters of a description.
const MAX_CHARS: usize = 255;

/// The text before the instance.
const START: &str = "vault ";

/// Returns a description that Astra accepts: ASCII, and not too long. If the answer to a mint is lost, the engine finds
/// the token by its marker.
pub(crate) fn describe(instance: &str, marker: &str, text: &str) -> String {
    let all = format!("{START}{instance}/{marker} {text}");
    let safe = all.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '_' });
    safe.take(MAX_CHARS).collect()
}

/// Whether a description begins with this marker, of any instance: a marker is unique.
pub(super) fn is_marked(description: &str, marker: &str) -> bool {
    self::marker(description) == Some(marker)
}

/// Returns the marker at the beginning of a description; `None` if another program wrote the description.
pub(super) fn marker(description: &str) -> Option<&str> {
    parts(description).map(|(_instance, marker)| marker)
}

/// Returns the marker at the beginning of a description that this instance wrote.
pub(super) fn marker_of<'a>(description: &'a str, instance: &str) -> Option<&'a str> {
    parts(description).filter(|(of, _)| *of == instance).map(|(_, marker)| marker)
}

fn parts(description: &str) -> Option<(&str, &str)> {
    description.strip_prefix(START)?.split(' ').next()?.split_once('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_begins_with_its_marker_however_long_its_text_is() {
        for text in ["mount=astra/ root", "", &"é".repeat(300)] {
            let description = describe("0a1b", "m1", text);
            assert!(description.starts_with("vault 0a1b/m1 "), "{description}");
            assert!(description.is_ascii() && description.len() <= MAX_CHARS, "{description}");
            for cut in ["vault 0a1b/m1".len(), description.len()] {
                assert!(is_marked(&description[..cut], "m1"), "{cut}");
            }
            assert!(!is_marked(&description[.."vault 0a1b/m".len()], "m1"));
        }
    }

    #[test]
    fn a_description_belongs_to_one_instance() {
        for (description, marker) in [
            ("vault a/m1 x", Some("m1")),
            ("vault a/m", Some("m")),
            ("vault a/", Some("")),
            ("vault a", None),
            ("vault ab/m1", None),
            ("vault A/m1", None),
            ("vault /m1", None),
            ("x vault a/m1", None),
        ] {
            assert_eq!(marker_of(description, "a"), marker, "{description}");
        }
    }

    #[test]
    fn only_the_beginning_of_a_description_has_a_marker() {
        for other in [
            "",
            "m1",
            "/m1",
            "vault m1",
            "vault a b/m1",
            "vault a/m1x",
            "vault a/xm1",
            "Vault a/m1",
            "vault a/M1",
            " vault a/m1",
            "x vault a/m1",
            "vault mount=astra/ role=r name=n by=b id=m1",
            "vault mount=a/ x/m1",
        ] {
            assert!(!is_marked(other, "m1"), "{other}");
        }
        assert!(is_marked("vault a/m1", "m1") && is_marked("vault a/m1 x", "m1") && is_marked("vault b/m1 ", "m1"));
    }
}
