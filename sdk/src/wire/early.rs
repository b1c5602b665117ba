//! Reads the first fields of a request before the rest has arrived.
//!
//! Go writes the fields of a message in the order of their numbers (protobuf-go `internal/impl/codec_message.go`). So the
//! operation and the path come before the data, which can have 32 MiB.

use prost::decode_length_delimiter;

/// Keys of fields (protobuf encoding: number and wire type).
mod key {
    /// `HandleRequestArgs`.
    pub(super) const STORAGE_ID: usize = 1 << 3;
    pub(super) const REQUEST: usize = 2 << 3 | LENGTH_DELIMITED;

    /// `Request`.
    pub(super) const ID: usize = 1 << 3 | LENGTH_DELIMITED;
    pub(super) const REPLICATION_CLUSTER: usize = 2 << 3 | LENGTH_DELIMITED;
    pub(super) const OPERATION: usize = 3 << 3 | LENGTH_DELIMITED;
    pub(super) const PATH: usize = 4 << 3 | LENGTH_DELIMITED;

    const LENGTH_DELIMITED: usize = 2;
}

/// The first fields of a request.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Start<'a> {
    pub(super) operation: &'a str,
    /// `None` if the path is empty or has not arrived yet.
    pub(super) path: Option<&'a str>,
}

/// Reads the start of a `HandleRequestArgs`. Returns `None` if the operation is not among these bytes, or not where Go
/// writes it.
pub(super) fn read(mut bytes: &[u8]) -> Option<Start<'_>> {
    let mut key = number(&mut bytes)?;
    if key == key::STORAGE_ID {
        number(&mut bytes)?;
        key = number(&mut bytes)?;
    }
    if key != key::REQUEST {
        return None;
    }
    let length = number(&mut bytes)?;
    let mut request = bytes.get(..length).unwrap_or(bytes);
    let mut operation = None;
    while let Some(key) = number(&mut request) {
        match key {
            key::ID | key::REPLICATION_CLUSTER => text(&mut request).map(drop)?,
            key::OPERATION => operation = Some(text(&mut request)?),
            key::PATH => return Some(Start { operation: operation?, path: text(&mut request) }),
            _ => break,
        }
    }
    Some(Start { operation: operation?, path: None })
}

fn text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let length = number(bytes)?;
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    std::str::from_utf8(text).ok()
}

/// Reads a number of the encoding (varint).
fn number(bytes: &mut &[u8]) -> Option<usize> {
    decode_length_delimiter(bytes).ok()
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::pb::pb::{HandleRequestArgs, Request};

    fn message() -> Vec<u8> {
        let request = Request {
            id: "8d3f2a5e-0000-4000-8000-000000000001".into(),
            operation: "resolve-path".into(),
            path: "roles/ADMIN".into(),
            data: "x".repeat(1000),
            ..Request::default()
        };
        HandleRequestArgs { storage_id: 700, request: Some(request) }.encode_to_vec()
    }

    #[test]
    fn operation_and_path_are_read_from_the_start() {
        let message = message();
        let whole = Some(Start { operation: "resolve-path", path: Some("roles/ADMIN") });
        assert_eq!(read(&message), whole);
        let mut lengths = (0..message.len()).map(|length| read(&message[..length]));
        let before = lengths.by_ref().take_while(Option::is_none).count();
        let seen: Vec<_> = lengths.collect();
        assert_eq!(before, 6 + 38 + 14, "the operation ends here");
        assert!(seen[..12].iter().all(|start| *start == Some(Start { operation: "resolve-path", path: None })));
        assert!(seen[12..].iter().all(|start| *start == whole));
    }

    #[test]
    fn other_starts_are_left_to_the_whole_message() {
        let without = |request: Request| HandleRequestArgs { storage_id: 0, request: Some(request) }.encode_to_vec();
        for start in [
            vec![],
            HandleRequestArgs::default().encode_to_vec(),
            without(Request::default()),
            without(Request { path: "x".into(), ..Request::default() }),
            without(Request { data: "x".into(), ..Request::default() }),
            // Fields in another order, no UTF-8, a number that does not end, and a field behind the end of the request.
            [&[18, 20][..], b"\x22\x01x\x1a\x04read"].concat(),
            [&[18, 20][..], b"\x1a\x02\xff\xff"].concat(),
            vec![0xff; 40],
            [&[18, 0][..], b"\x1a\x04read"].concat(),
        ] {
            assert_eq!(read(&start), None, "{start:?}");
        }
        let unnamed = without(Request { operation: "read".into(), data: "x".into(), ..Request::default() });
        assert_eq!(read(&unnamed), Some(Start { operation: "read", path: None }));
    }
}
