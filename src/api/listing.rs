//! A list of all tokens of an org, kept for several questions.

use uuid::Uuid;

/// The tokens of an org at one time. Keeps about 100 bytes of each token.
pub(crate) struct Listing {
    /// Client ids and markers, sorted.
    tokens: Vec<(Box<str>, Option<Uuid>)>,
}

impl Listing {
    pub(super) fn new(mut tokens: Vec<(Box<str>, Option<Uuid>)>) -> Self {
        tokens.sort_unstable();
        Self { tokens }
    }

    /// Whether Astra had a token.
    pub(crate) fn has_token(&self, client_id: &str) -> bool {
        self.tokens.binary_search_by(|(id, _)| (**id).cmp(client_id)).is_ok()
    }

    /// Returns the client ids of the tokens with this marker, as `Client::find_tokens` does.
    pub(crate) fn find_tokens(&self, marker: &str) -> Vec<String> {
        let Ok(marker) = Uuid::try_parse(marker) else { return Vec::new() };
        let marked = self.tokens.iter().filter(|(_, of)| *of == Some(marker));
        marked.map(|(id, _)| id.to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_knows_client_ids_and_markers() {
        let marker = "0123456789abcdef0123456789abcdef";
        let marked = Uuid::try_parse(marker).ok();
        let token = |id: &str, marker| (Box::from(id), marker);
        let listing = Listing::new(vec![token("c", marked), token("a", None), token("b", marked), token("d", None)]);
        assert_eq!(listing.find_tokens(marker), ["b", "c"]);
        for (other, id) in [("", "e"), ("m1", "ab"), ("0123456789abcdef0123456789abcdee", "")] {
            assert!(listing.find_tokens(other).is_empty() && !listing.has_token(id), "{other}");
        }
        assert!(["a", "b", "c", "d"].into_iter().all(|id| listing.has_token(id)));
    }
}
