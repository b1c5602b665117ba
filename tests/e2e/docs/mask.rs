//! Masks: the names that documents show in place of values that differ from run to run.

use regex_lite::Regex;

/// Values that differ from run to run or between machines, by their shape.
const VARYING: [(&str, &str); 18] = [
    ("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(Z|[+-][0-9]{4})", "<time>"),
    ("(?m)^ttl( +)([0-9]+m[0-9]+s|1h|23h59m[0-9]+s|24h)$", "ttl$1<time left>"),
    // What is left of an hour, or of a day.
    ("\"ttl\": (35[0-9][0-9]|3600|863[0-9][0-9]|86400)\\b", "\"ttl\": \"<seconds left>\""),
    // The beginning of a root token. The engine made some of them.
    ("AstraCS:[A-Za-z0-9]{7}[.]{3}", "AstraCS:ABcDeFg..."),
    ("(?m)^reload_id( +)[^ ]+$", "reload_id$1<reload id>"),
    ("(?m)^commit: .+$", "commit: <commit>"),
    // The report of the doctor.
    ("(in|after) [0-9]+[.][0-9] s", "$1 <seconds> s"),
    ("commit [0-9a-f]+(-dirty)?, for [a-z]+ [a-z0-9_]+", "commit <commit>, for <platform>"),
    ("mode [0-7]{4}, owner [0-9]+", "mode <mode>, owner <id>"),
    ("this is user [0-9]+", "this is user <id>"),
    // Not known until the first sweep.
    ("\"tokens\": (null|[0-9]+)", "\"tokens\": \"<number>\""),
    ("tokens:(<nil>|[0-9]+)", "tokens:<number>"),
    ("(?m)^[A-Za-z0-9]{24}$", "<client id>"),
    ("astra_[0-9a-f]{8}\\b", "astra_<accessor>"),
    ("serves connection [0-9]+", "serves connection <number>"),
    ("(Owner|Group): .+", "$1: <id> [<name>] (current: <id> [<name>])"),
    ("Mode: [-rwx]+", "Mode: <mode>"),
    ("ELF architecture: .+", "ELF architecture: <architecture> (current architecture: <architecture>)"),
];

/// Words of Vault, and the words of OpenBao that the documents show instead.
const WORDS: [(&str, &str); 4] = [
    ("returned from Vault:", "returned from OpenBao:"),
    ("can cause Vault to", "can cause OpenBao to"),
    ("* 1 error occurred:\n\t* checksums did not match", "* checksums did not match"),
    (
        "outside of configured plugin directory <plugin dir>: expected <plugin dir>, got <folder of the server>",
        "outside of configured plugin directory",
    ),
];

/// The least space between two columns of the CLI.
const GAP: &str = "    ";

/// Values that differ from run to run, each with its name.
#[derive(Default)]
pub(super) struct Masks(Vec<(String, String)>);

impl Masks {
    /// Masks a value: as `$NAME` in commands, as `<name>` in output.
    pub(super) fn add(&mut self, value: &str, name: &str) {
        let mask = (value.to_owned(), name.to_owned());
        if !value.is_empty() && !self.0.contains(&mask) {
            self.0.push(mask);
            // A token contains its client id, so the longer value is replaced first.
            self.0.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        }
    }

    /// Masks the tokens, client ids and lease ids in a text. Returns the digests of the tokens, which are secret.
    pub(super) fn learn(&mut self, text: &str) -> Vec<String> {
        for found in pattern("client_id[\": ]+([A-Za-z0-9]{24})").captures_iter(text) {
            self.add(&found[1], "client id");
        }
        for found in pattern("astra/(org/token|creds/[^/\" ]+/[^/\" ]+)/[A-Za-z0-9]{24}").find_iter(text) {
            self.add(found.as_str(), "lease id");
        }
        let tokens = pattern("AstraCS:([A-Za-z0-9]+):([0-9a-f]+)");
        tokens
            .captures_iter(text)
            .map(|found| {
                self.add(&found[0], "token");
                self.add(&found[1], "client id");
                found[2].to_owned()
            })
            .collect()
    }

    /// Returns a command with variables in place of the values.
    pub(super) fn command(&self, text: &str) -> String {
        let variable = |name: &str| format!("${}", name.to_uppercase().replace(' ', "_"));
        let text = self.0.iter().fold(steady(text), |text, (value, name)| text.replace(value, &variable(name)));
        pattern("'([$][A-Z_]+)'").replace_all(&text, "\"$1\"").into_owned()
    }

    /// Returns a text with names in place of the values.
    pub(super) fn text(&self, text: &str) -> String {
        let name = |text: String, (value, name): &(String, String)| text.replace(value, &format!("<{name}>"));
        steady(&self.0.iter().fold(text.to_owned(), name))
    }

    /// Masks the output of a command, and aligns its tables as the CLI does.
    pub(super) fn output(&self, text: &str) -> String {
        let text = WORDS.iter().fold(self.text(text), |text, (vault, openbao)| text.replace(vault, openbao));
        aligned(&text)
    }
}

fn steady(text: &str) -> String {
    VARYING.iter().fold(text.to_owned(), |text, (shape, name)| pattern(shape).replace_all(&text, *name).into_owned())
}

/// Aligns the columns of each table, and drops blanks at the ends of lines and empty lines at the end.
fn aligned(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().map(str::trim_end).collect();
    let mut shown = String::new();
    let mut at = 0;
    while at < lines.len() {
        let rule = lines.get(at + 1).is_some_and(|line| line.contains(GAP) && line.trim_matches(['-', ' ']).is_empty());
        let rows = if rule { lines[at..].iter().take_while(|line| line.contains(GAP)).count() } else { 0 };
        match rows {
            0 => {
                shown.push_str(lines[at]);
                shown.push('\n');
                at += 1;
            }
            rows => {
                shown.push_str(&table(&lines[at..at + rows]));
                at += rows;
            }
        }
    }
    shown
}

fn table(rows: &[&str]) -> String {
    let gap = pattern(" {4,}");
    let columns = gap.split(rows[0]).count();
    let cells: Vec<Vec<&str>> = rows.iter().map(|row| gap.splitn(row, columns).collect()).collect();
    let width = |column: usize| cells.iter().filter_map(|row| row.get(column)).map(|cell| cell.len()).max();
    let widths: Vec<usize> = (0..columns).filter_map(width).collect();
    let row = |cells: &Vec<&str>| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", padded.join(GAP).trim_end())
    };
    cells.iter().map(row).collect()
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a pattern")
}

#[test]
fn a_masked_table_stays_aligned() {
    let mut masks = Masks::default();
    masks.add("mount-10", "path");
    let told = "Path         Plugin\n----         ------\nmount-10/    astra\ncubbyhole/    kv\nend of it \n\n";
    let shown = "Path          Plugin\n----          ------\n<path>/       astra\ncubbyhole/    kv\nend of it\n";
    assert_eq!(masks.output(told), shown);
}

#[test]
fn a_token_is_masked_before_its_client_id() {
    let mut masks = Masks::default();
    assert_eq!(masks.learn("token AstraCS:abcdefghijklmnopqrstuvwx:0123"), ["0123"]);
    assert_eq!(masks.output("AstraCS:abcdefghijklmnopqrstuvwx:0123"), "<token>\n");
    assert_eq!(masks.command("vault read id='abcdefghijklmnopqrstuvwx'"), "vault read id=\"$CLIENT_ID\"");
}

#[test]
fn a_lease_id_in_a_url_is_masked_without_the_url() {
    let mut masks = Masks::default();
    let told = "URL: PUT http://127.0.0.1:8200/v1/sys/leases/revoke/astra/org/token/abcdefghijklmnopqrstuvwx";
    assert!(masks.learn(told).is_empty());
    assert_eq!(masks.output(told), "URL: PUT http://127.0.0.1:8200/v1/sys/leases/revoke/<lease id>\n");
}
