//! Writes the results as the tables of `docs/operations.md`.

use std::sync::Mutex;

use super::faults::{Family, Reach};
use super::mount::{Calls, Left, Seen};
use crate::astra::Phase;
use crate::docs::agrees;

const START: &str = "<!-- what the fault catalogue found: DOCS_WRITE=1 cargo test --test e2e catalogue -->\n";
const END: &str = "<!-- end of what it found -->";

/// The answer of rows whose faults also have their own rows.
pub(super) const AS_ABOVE: &str = "the error of the failure, as above";

/// A row: a family of faults, and the result of each fault.
pub(super) struct Row {
    what: String,
    /// A short text for the caller's answer, if the answers in the family differ and only the other results are equal.
    mixed: Option<&'static str>,
    pub(super) family: Option<Family>,
    /// Phase, name of the case, and results: of the mint, or of the delete and the revocation.
    seen: Mutex<Vec<(Phase, String, Vec<Seen>)>>,
}

impl Row {
    pub(super) fn new(what: &str) -> Self {
        Self { what: what.to_owned(), mixed: None, family: None, seen: Mutex::default() }
    }

    pub(super) fn of(family: Family) -> Self {
        let mixed = (family.reach == Reach::Org).then_some(AS_ABOVE);
        Self { what: family.what.to_owned(), mixed, family: Some(family), seen: Mutex::default() }
    }

    pub(super) fn mixed(what: &str, answer: &'static str) -> Self {
        Self { mixed: Some(answer), ..Self::new(what) }
    }

    pub(super) fn add(&self, phase: Phase, case: impl Into<String>, mut seen: Vec<Seen>) {
        if let Some(answer) = self.mixed {
            for seen in seen.iter_mut().filter(|seen| seen.status >= 300) {
                (seen.status, seen.text) = (0, answer.to_owned());
                if answer == AS_ABOVE {
                    seen.calls = Calls::Differ;
                }
            }
        }
        self.seen.lock().unwrap().push((phase, case.into(), seen));
    }

    /// Returns the common result of all faults in a phase, or the names of the faults with other results.
    fn common(&self, phase: Phase) -> Result<Option<Vec<Seen>>, String> {
        let seen = self.seen.lock().unwrap();
        let of_phase: Vec<_> = seen.iter().filter(|(at, ..)| *at == phase).collect();
        let Some((_, _, first)) = of_phase.first() else { return Ok(None) };
        if of_phase.iter().all(|(_, _, seen)| seen == first) {
            return Ok(Some(first.clone()));
        }
        let list = of_phase.iter().map(|(_, case, seen)| format!("  {case}: {seen:?}\n"));
        Err(format!("{:?} has more than one outcome:\n{}", self.what, list.collect::<String>()))
    }

    /// Returns the cells of the row. If both phases are equal, they share one line.
    fn cells(&self, cell: impl Fn(&[Seen]) -> [String; 3]) -> Result<String, String> {
        let (before, after) = (self.common(Phase::Before)?, self.common(Phase::After)?);
        let lines = match (before.map(|seen| cell(&seen)), after.map(|seen| cell(&seen))) {
            (Some(before), Some(after)) if before == after => vec![("either", after)],
            (Some([calls, answer, left]), Some(after)) if after[..2] == [calls.as_str(), &answer] => {
                let left = format!("no: {left}; yes: {}", after[2]);
                vec![("either", [calls, answer, left])]
            }
            (before, after) => {
                before.map(|cells| ("no", cells)).into_iter().chain(after.map(|cells| ("yes", cells))).collect()
            }
        };
        let row = |(took, cells): (&str, [String; 3])| format!("| {} | {took} | {} |\n", self.what, cells.join(" | "));
        Ok(lines.into_iter().map(row).collect())
    }
}

/// Compares the tables with the document, or writes them to the document.
pub(super) fn compare(mints: &[Row], deletions: &[Row]) {
    let mut faults = String::new();
    let mut rows = |rows: &[Row], cell: fn(&[Seen]) -> [String; 3]| -> String {
        rows.iter()
            .map(|row| {
                row.cells(cell).unwrap_or_else(|fault| {
                    faults.push_str(&fault);
                    String::new()
                })
            })
            .collect()
    };
    let (mints, deletions) = (rows(mints, mint_cells), rows(deletions, deletion_cells));
    assert!(faults.is_empty(), "{faults}");
    let found = format!(
        "\n### Mint a token\n\n\
         | Astra … | token created? | calls | answer to the caller | remains |\n\
         | --- | --- | --- | --- | --- |\n{mints}\n\
         ### Delete a token or revoke its lease\n\n\
         | Astra … | token deleted? | calls | answer to the caller | remains |\n\
         | --- | --- | --- | --- | --- |\n{deletions}\n\
         ### Renew a lease\n\n\
         | Astra … | answer to the caller | remains |\n| --- | --- | --- |\n\
         | shows any failure of the tables above | the renewed lease | nothing: a renewal does not call Astra |\n\n"
    );
    agrees("docs/operations.md", START, END, &found, "catalogue");
}

fn mint_cells(seen: &[Seen]) -> [String; 3] {
    let [seen] = seen else { unreachable!("a mint is one thing") };
    let left = match seen.left {
        Left::Done => "the caller has the token",
        Left::Nothing => "nothing",
        Left::UndoneAtOnce => "the token. The engine deletes it at once",
        Left::UndoneByTick => "the token. The tick deletes it",
        Left::AsBefore | Left::Record => unreachable!("a failed mint leaves no record"),
    };
    [calls(seen.calls).into(), answer(seen, "a token"), left.into()]
}

fn deletion_cells(seen: &[Seen]) -> [String; 3] {
    let [delete, revoke] = seen else { unreachable!("two ways to end a token") };
    assert_eq!((delete.calls, delete.left, &delete.text), (revoke.calls, revoke.left, &revoke.text));
    let left = match delete.left {
        Left::Done => "nothing",
        Left::AsBefore => "token, record and lease, until a retry succeeds",
        Left::Record => "record and lease. The tick deletes the record, the next retry the lease",
        _ => unreachable!("nothing was minted"),
    };
    [calls(delete.calls).into(), answer(delete, "success"), left.into()]
}

fn calls(calls: Calls) -> &'static str {
    match calls {
        Calls::None => "none",
        Calls::One => "one",
        Calls::Several => "several",
        Calls::Differ => "as above",
    }
}

fn answer(seen: &Seen, success: &str) -> String {
    match seen.status {
        0 => seen.text.clone(),
        1..300 => success.into(),
        status => format!("{status} `{}`", seen.text.replace('|', "\\|")),
    }
}
