//! Converts text to lower case as Go does.
//!
//! A Go engine uses names in lower case as storage keys, so this must return the same text.

/// Returns a text in lower case as Go's `strings.ToLower` does: each rune alone, without regard to adjacent letters.
///
/// The standard library's `to_lowercase` differs: it turns a final capital sigma into `ς`, and `İ` into two characters.
pub fn to_lower(text: &str) -> String {
    text.chars().map(lower).collect()
}

fn lower(c: char) -> char {
    match c {
        // `İ` is the only character that Rust turns into two characters.
        '\u{130}' => 'i',
        c if is_new(c) => c,
        c => c.to_lowercase().next().unwrap_or(c),
    }
}

/// Whether a letter got its lower case after Unicode 15. Go 1.26 uses Unicode 15, so it keeps such a letter unchanged.
fn is_new(c: char) -> bool {
    matches!(c, '\u{1c89}' | '\u{a7cb}' | '\u{a7cc}' | '\u{a7ce}' | '\u{a7d2}' | '\u{a7d4}' | '\u{a7da}' | '\u{a7dc}'
        | '\u{10d50}'..='\u{10d65}' | '\u{16ea0}'..='\u{16eb8}')
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn letters_fold_rune_by_rune() {
        for (text, expected) in [
            ("R_W_User", "r_w_user"),
            ("ΟΔΟΣ ΣΑΣ", "οδοσ σασ"),
            ("οδος", "οδος"),
            ("İSTANBUL", "istanbul"),
            ("Iı", "iı"),
            ("ẞß", "ßß"),
            ("ÀÉ Ⅷ Ⓐ", "àé ⅷ ⓐ"),
            ("ΆᾈǅK", "άᾀǆk"),
            ("", ""),
        ] {
            assert_eq!(to_lower(text), expected, "{text:?}");
        }
    }

    /// The digest covers the output of this Go 1.26 program, which prints all runes that `strings.ToLower` changes:
    ///
    /// ```go
    /// for r := rune(0); r <= unicode.MaxRune; r++ {
    ///     if lower := strings.ToLower(string(r)); utf8.ValidRune(r) && lower != string(r) {
    ///         fmt.Printf("%x %x\n", r, []rune(lower)[0])
    ///     }
    /// }
    /// ```
    #[test]
    fn every_character_folds_as_in_go() {
        let mut listing = String::new();
        for c in '\0'..=char::MAX {
            let folded = to_lower(&c.to_string());
            let mut folded = folded.chars();
            let (Some(lower), None) = (folded.next(), folded.next()) else { panic!("{c:?} is not one character") };
            if lower != c {
                writeln!(listing, "{:x} {:x}", u32::from(c), u32::from(lower)).unwrap();
            }
        }
        assert_eq!(listing.lines().count(), 1433);
        let digest = Sha256::digest(&listing);
        assert_eq!(format!("{digest:x}"), "f4944fbf8c952a5676c9b57b7707fa77b2238f620c41f6cce6f180532afe52f7");
    }
}
