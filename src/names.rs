//! Names and ids that become part of a storage key: parsed once, at the edge.
//!
//! The Go plugin accepted any text. So there are two ways to parse a name: strict for entries that are created, and
//! lenient for entries that may be stored already.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};
use vault_plugin_sdk::framework::to_lower;

/// The longest name that can be created.
const MAX_BYTES: usize = 255;

/// The longest name that may be stored. The host rejects keys of more than 32 KiB.
const MAX_STORED_BYTES: usize = 8 << 10;

/// A text that cannot be a name. Never holds the text.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{field} {reason}")]
pub(crate) struct InvalidName {
    /// Name of the field that holds the text.
    pub(crate) field: &'static str,
    /// The rule that the text breaks.
    pub(crate) reason: &'static str,
}

impl InvalidName {
    fn new(field: &'static str, reason: &'static str) -> Self {
        Self { field, reason }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $fold:expr, $check:expr, $validate_stored_name:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
        #[serde(transparent)]
        pub(crate) struct $name(String);

        impl $name {
            /// Parses the name of an entry that is created.
            ///
            /// # Errors
            /// When it is empty or could escape its storage key. The text names `field`.
            #[allow(dead_code, reason = "an org is found first, and created if it is not there")]
            pub(crate) fn parse(field: &'static str, text: &str) -> Result<Self, InvalidName> {
                let name = Self::fold(text);
                $check(field, &name.0)?;
                Ok(name)
            }

            /// Parses the name of an entry that may be stored already. Accepts names that cannot be created.
            ///
            /// # Errors
            /// When no entry can have this name. The text names `field`.
            pub(crate) fn find(field: &'static str, text: &str) -> Result<Self, InvalidName> {
                let name = Self::fold(text);
                $validate_stored_name(field, &name.0)?;
                Ok(name)
            }

            /// Fails if no entry with this name can be created. Call it before creating an entry, and after finding
            /// none.
            ///
            /// # Errors
            /// As [`Self::parse`].
            pub(crate) fn require_new(&self, field: &'static str) -> Result<(), InvalidName> {
                $check(field, &self.0)
            }

            fn fold(text: &str) -> Self {
                let fold: fn(&str) -> String = $fold;
                // Checks come after this: some letters have more bytes in lower case, and a stored name must stay
                // valid.
                Self(fold(text))
            }

            /// Wraps a name that this engine stored, without a check.
            #[allow(dead_code, reason = "a logical name is only ever read as part of an entry")]
            pub(crate) fn stored(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// Returns the text.
            pub(crate) fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The operator's key for an Astra organization: its id in Astra, or a label. Letter case counts.
    OrgId,
    str::to_owned,
    validate_key,
    validate_stored_key
);
name!(
    /// Name of a role, in lower case.
    RoleName,
    to_lower,
    validate_key,
    validate_stored_key
);
name!(
    /// Logical name of a token, in lower case; empty if the token has none.
    LogicalName,
    to_lower,
    validate_name,
    validate_stored_name
);
name!(
    /// Public part of an Astra token. Letter case counts.
    ClientId,
    str::to_owned,
    validate_key,
    validate_stored_key
);

/// Checks a name from a caller.
///
/// # Errors
/// Names `field` and the rule that the text breaks. Never holds the text.
pub(crate) fn validate_name(field: &'static str, text: &str) -> Result<(), InvalidName> {
    let reason = if text.is_empty() {
        "must not be empty"
    } else if text.len() > MAX_BYTES {
        "must not be longer than 255 bytes"
    } else if text.contains(['/', ':']) || text.chars().any(char::is_control) {
        "must not contain \"/\", \":\" or control characters"
    } else if text == "." || text.contains("..") {
        // The host rejects such keys: "relative paths not supported".
        "must not be \".\" or contain \"..\""
    } else {
        return Ok(());
    };
    Err(InvalidName::new(field, reason))
}

/// Checks a name that becomes part of a storage key without escapes.
fn validate_key(field: &'static str, text: &str) -> Result<(), InvalidName> {
    validate_name(field, text)?;
    if text.chars().all(is_printable) {
        return Ok(());
    }
    Err(InvalidName::new(field, "must not contain characters that are not printable, such as a zero-width space"))
}

/// Checks the name of a stored entry, if the name is not part of a key.
fn validate_stored_name(field: &'static str, text: &str) -> Result<(), InvalidName> {
    if text.is_empty() {
        return Err(InvalidName::new(field, "must not be empty"));
    }
    if text.len() > MAX_STORED_BYTES {
        return Err(InvalidName::new(field, "must not be longer than 8 KiB"));
    }
    Ok(())
}

/// Checks a name that is part of a stored key without escapes.
fn validate_stored_key(field: &'static str, text: &str) -> Result<(), InvalidName> {
    validate_stored_name(field, text)?;
    if fits_key(text) {
        return Ok(());
    }
    Err(InvalidName::new(field, "must not contain \"..\" or characters that are not printable"))
}

/// Whether the host's storage accepts a text as part of a key. It rejects two dots ("relative paths not supported").
pub(crate) fn fits_key(text: &str) -> bool {
    !text.contains("..") && text.chars().all(is_printable)
}

/// Writes a name as one segment of a key. Names of the Go plugin can contain `/`, which would start another segment, so
/// `/` is escaped. An escape starts with `:`. Names that can be created contain neither character and do not change.
pub(crate) fn segment(name: &str) -> Cow<'_, str> {
    if name.contains(['/', ':']) { name.replace(':', ":3a").replace('/', ":2f").into() } else { name.into() }
}

/// Reads a name from a segment of a key.
pub(crate) fn from_segment(segment: &str) -> String {
    segment.replace(":2f", "/").replace(":3a", ":")
}

/// Whether the host's storage accepts a character in a key: the character must be printable in Go (`unicode.IsPrint`).
/// Rust's standard library writes all other characters as escapes.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    // An accent is written as an escape only at the start of a text.
    format!("a{c}").escape_debug().count() == 2
}

/// Whether a name can be a segment of an engine's path: ASCII letters, digits and `_`, and between them also `-` and
/// `.`, but no two dots in a row. Such a name needs no percent-encoding, so it has only one spelling in a URL.
pub(crate) fn fits_path(name: &str) -> bool {
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    name.len() <= MAX_BYTES
        && is_word(name.chars().next())
        && is_word(name.chars().next_back())
        && name.chars().all(|c| is_word(Some(c)) || matches!(c, '-' | '.'))
        && !name.contains("..")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_could_escape_their_key_are_rejected() {
        let long = "x".repeat(256);
        for text in ["", "a/b", "a:b", "a\nb", "a\0", ".", "..", "a..b", &long] {
            let error = OrgId::parse("org_id", text).unwrap_err().to_string();
            assert!(error.starts_with("org_id "), "{error}");
        }
    }

    #[test]
    fn names_that_storage_rejects_in_a_key_are_rejected() {
        // Zero-width space and joiner, reading direction, byte order mark, no-break space, line separator, a private
        // and an unassigned character, soft hyphen.
        for c in ['\u{200b}', '\u{200d}', '\u{202e}', '\u{feff}', '\u{a0}', '\u{2028}', '\u{e000}', '\u{378}', '\u{ad}']
        {
            let text = format!("a{c}b");
            let error = RoleName::parse("role_name", &text).unwrap_err().to_string();
            assert!(error.starts_with("role_name must not") && error.contains("printable"), "{error}");
            assert!(OrgId::parse("org_id", &text).is_err() && ClientId::parse("client_id", &text).is_err());
            assert!(LogicalName::parse("logical_name", &text).is_ok(), "a logical name is part of no key");
        }
        for text in [
            "a b",
            "\u{e9}t\u{e9}",
            "e\u{301}",
            "\u{4e2d}\u{6587}",
            "\u{1f600}",
            "\u{301}",
            r#"it's "\quoted\""#,
            "$+~^<>|",
        ] {
            assert!(OrgId::parse("org_id", text).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn ids_from_the_go_plugins_guide_are_valid_and_unchanged() {
        let guide = "ccd999999_facd_4ad3_bbb99903d999999999999999d";
        assert_eq!(OrgId::parse("org_id", guide).unwrap().as_str(), guide);
        assert_eq!(ClientId::parse("client_id", "DTEUyKUZ").unwrap().as_str(), "DTEUyKUZ");
        assert_eq!(OrgId::parse("org_id", &"x".repeat(255)).unwrap().as_str().len(), 255);
    }

    #[test]
    fn only_names_with_one_spelling_fit_a_path() {
        let uuid = "6a4c2d1e-5c0f-4b8e-9a57-000000000002";
        for name in ["a", "_", "7", "retailOrg", "a.b-c_d", uuid, &"x".repeat(255)] {
            assert!(fits_path(name), "{name:?}");
        }
        let long = "x".repeat(256);
        for name in
            ["", ".", "-", "a.", "-a", "a-", "a..b", "a b", "a ", " a", "a/b", "a%2fb", "a\n", "é", "a+", "*", &long]
        {
            assert!(!fits_path(name), "{name:?}");
        }
    }

    #[test]
    fn a_name_that_is_too_long_in_lower_case_is_rejected() {
        let long = "\u{23a}".repeat(127);
        assert!(long.len() <= MAX_BYTES && to_lower(&long).len() > MAX_BYTES);
        assert!(RoleName::parse("role_name", &long).is_err() && LogicalName::parse("logical_name", &long).is_err());
        assert!(OrgId::parse("org_id", &long).is_ok());
    }

    #[test]
    fn role_and_logical_names_are_lower_cased() {
        assert_eq!(RoleName::parse("role_name", "R_W_User").unwrap().as_str(), "r_w_user");
        assert_eq!(LogicalName::parse("logical_name", "Org1").unwrap().as_str(), "org1");
    }

    #[test]
    fn names_of_the_go_plugin_are_found_and_not_created() {
        let long = "x".repeat(256);
        for text in ["a/b", "a:b", "/", ":2f", &long] {
            assert_eq!(OrgId::find("org_id", text).unwrap().as_str(), text);
            let name = RoleName::find("role_name", text).unwrap();
            assert!(name.require_new("role_name").unwrap_err().to_string().starts_with("role_name must not"));
        }
        // The Go plugin hashes the logical name of a token, so storage never rejected these.
        for text in ["a..b", "a\nb", "a\u{200b}b", ".", "a/b", &long] {
            assert_eq!(LogicalName::find("logical_name", text).unwrap().as_str(), text);
            let is_new = LogicalName::parse("logical_name", text).is_ok();
            assert_eq!(is_new, text.contains('\u{200b}'), "{text:?}");
        }
        for text in ["", "a..b", "a\nb", &"x".repeat(9000)] {
            let error = RoleName::find("role_name", text).unwrap_err().to_string();
            assert!(error.starts_with("role_name must not") && error.len() < 100, "{error}");
        }
    }

    proptest! {
        #[test]
        fn every_name_can_be_read_from_its_segment(one in "[:/a2f3.]{0,6}", two in "[:/a2f3.]{0,6}") {
            let segments = [&one, &two].map(|name| segment(name).into_owned());
            prop_assert!(!segments[0].contains('/'));
            prop_assert_eq!(from_segment(&segments[0]), one.clone());
            prop_assert_eq!(segments[0] == segments[1], one == two);
        }
    }
}
