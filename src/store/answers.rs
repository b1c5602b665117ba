//! The answers to reads of a cached entry, as text.

use std::fmt;
use std::sync::OnceLock;

use vault_plugin_sdk::logical::{DataText, Map};

/// The forms in which an entry is shown: with durations as text, and in seconds.
const FORMS: usize = 2;

/// The longest answer that is kept, in bytes. A cache holds a number of entries, so this bounds the memory of their answers.
/// Answers are longer only if a role has much metadata.
const LONGEST: usize = 1024;

/// Keeps the answers to reads of an entry. They belong to this value of the entry: a change of the entry makes a new value,
/// which has no answers yet. All callers get the same answer, so it must not depend on the caller.
#[derive(Default)]
pub(crate) struct Answers([OnceLock<DataText>; FORMS]);

impl Answers {
    /// Returns the answer in one of the forms. Calls `show` if the answer is not kept.
    pub(crate) fn text(&self, in_seconds: bool, show: impl FnOnce() -> Map) -> DataText {
        let kept = &self.0[usize::from(in_seconds)];
        if let Some(text) = kept.get() {
            return text.clone();
        }
        let text = DataText::new(show());
        if text.as_str().len() <= LONGEST {
            // If another request was faster, its text is the same.
            let _ = kept.set(text.clone());
        }
        text
    }
}

impl Clone for Answers {
    /// Returns no answers: an entry is cloned to change it.
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// All values are equal: a read does not change the entry.
impl PartialEq for Answers {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Answers {}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answers")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(text: &str) -> Map {
        Map::from_iter([("text".to_owned(), json!(text))])
    }

    #[test]
    fn an_answer_is_kept_for_each_form_but_not_in_clones() {
        let answers = Answers::default();
        assert_eq!(answers.text(false, || shown("1h")).as_str(), r#"{"text":"1h"}"#);
        assert_eq!(answers.text(true, || shown("3600")).as_str(), r#"{"text":"3600"}"#);
        for (in_seconds, kept) in [(false, r#"{"text":"1h"}"#), (true, r#"{"text":"3600"}"#)] {
            assert_eq!(answers.text(in_seconds, || panic!("the answer is not kept")).as_str(), kept);
            assert_eq!(answers.clone().text(in_seconds, || shown("new")).as_str(), r#"{"text":"new"}"#);
        }
    }

    #[test]
    fn a_long_answer_is_not_kept() {
        let answers = Answers::default();
        answers.text(false, || shown(&"x".repeat(LONGEST)));
        assert_eq!(answers.text(false, || shown("again")).as_str(), r#"{"text":"again"}"#);
    }
}
