//! The recording of the demo.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn repository(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Reads a recording: its header, and each line with its time.
fn cast(text: &str) -> (Value, Vec<(f64, String)>) {
    let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let header = lines.next().expect("a header");
    let event = |event: Value| {
        assert_eq!((event[1].as_str(), event.as_array().map(Vec::len)), (Some("o"), Some(3)));
        (event[0].as_f64().expect("a time"), event[2].as_str().expect("a text").to_owned())
    };
    (header, lines.map(event).collect())
}

/// Returns a text without colour codes.
fn plain(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |told, part| told + part.split_once('m').map_or(part, |(_, rest)| rest))
}

/// Checks that all texts in the shape of a token are masked. Returns their number.
fn masked(text: &str) -> usize {
    let tokens: Vec<&str> = text.split("AstraCS:").skip(1).collect();
    for token in &tokens {
        let (id, rest) = token.split_at(token.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(token.len()));
        assert!(rest.starts_with(":***") || rest.starts_with("..."), "a token of {id} is not masked");
    }
    let hex = text.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() == 64).count();
    // The digest of the plugin is the only text with this length.
    assert!(hex <= 1, "{hex} texts have the length of a secret");
    tokens.len()
}

#[test]
fn the_recording_shows_the_output_of_the_demo() {
    let text = repository("docs/demo.cast");
    assert!(text.len() < 200_000);
    let (header, events) = cast(&text);
    assert_eq!(header["version"], 2);
    assert!(header["width"].as_u64().is_some_and(|width| (80..=120).contains(&width)));
    assert!(header["height"].as_u64().is_some_and(|height| (24..=40).contains(&height)));
    assert!(events.windows(2).all(|pair| pair[0].0 <= pair[1].0), "the times are not in order");
    assert!(
        events.last().is_some_and(|event| (20.0..120.0).contains(&event.0)),
        "the recording is too fast or too long"
    );

    assert!(text.contains("\\u001b[1m# ") && text.contains("\\u001b[36m$ "), "the recording has no colours");

    // The recording must show the output of the current demo, so both change together.
    let told = plain(&events.iter().map(|event| event.1.as_str()).collect::<String>());
    let script = repository("docs/demo.sh");
    let said: Vec<&str> = script.lines().filter_map(|line| line.strip_prefix("say \"")?.strip_suffix('"')).collect();
    assert!(said.len() > 10);
    let recorded: Vec<&str> = told.lines().filter_map(|line| line.trim_end().strip_prefix("# ")).collect();
    assert_eq!(recorded[..said.len()], said, "record it again: sh docs/record.sh");
    assert_eq!(told.matches(" is gone").count(), 2);

    assert!(masked(&told) >= 4);
    for part in ["/home/", "/root", "/work", "/tmp/"] {
        assert!(!told.contains(part), "the recording shows a path of the machine: {part}");
    }
}

#[test]
fn the_picture_shows_the_recording() {
    let picture = repository("docs/demo.svg");
    assert!(picture.len() < 200_000 && picture.starts_with("<svg ") && picture.trim_end().ends_with("</svg>"));
    let (_, events) = cast(&repository("docs/demo.cast"));
    let told = plain(&events.iter().map(|event| event.1.as_str()).collect::<String>());
    let client_id = told.lines().find_map(|line| line.strip_prefix("clientId ")).expect("a token").trim();
    assert!(picture.contains(client_id), "the picture shows another recording");
    assert!(masked(&picture) >= 1);
}

/// Two lines with tokens, where a pause splits the second line, and a command that fails.
#[test]
fn the_recorder_masks_tokens_and_fails_if_the_command_fails() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("cast");
    let record = |command: &str| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/record.py");
        let mut python = Command::new("python3");
        python.arg(script).arg(&file).args(["sh", "-c", command]).output().expect("run python3")
    };
    let id = "abcdefghijklmnopqrstuvwx";
    let secret = "0123456789abcdef".repeat(4);
    let (half, rest) = secret.split_at(20);
    let output = record(&format!("echo AstraCS:{id}:{secret}; printf AstraCS:{id}:{half}; sleep 0.2; echo {rest} end"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(&file).expect("the cast");
    let (_, events) = cast(&text);
    assert_eq!(masked(&text), 2);
    assert!(events.windows(2).any(|pair| pair[1].0 - pair[0].0 >= 0.1), "the recording has no pause");
    assert_eq!(events.iter().filter(|event| event.1.contains(&format!("AstraCS:{id}:***"))).count(), 2);

    fs::remove_file(&file).expect("remove the cast");
    assert!(!record("echo begun; exit 3").status.success());
    assert!(!file.exists());
}
