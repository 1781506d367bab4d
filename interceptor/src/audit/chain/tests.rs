use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;

use super::*;
use crate::audit::{
    Audit, AuditError, AuditOptions, ChainOptions, Kind, Record, RequestId, Verdict,
};

fn key() -> ChainKey {
    ChainKey::new(&[7; 32]).unwrap()
}

fn open(path: &Path) -> Audit {
    let chain = ChainOptions { key: key(), wait: false };
    Audit::to_file_chained(path, AuditOptions::default(), chain).unwrap()
}

fn emit(audit: &Audit, paths: std::ops::Range<u32>) {
    let sandbox: Arc<str> = "s1".into();
    for number in paths {
        let record = Record::new(&sandbox, RequestId::new(), Kind::Request, Verdict::Allow);
        audit.emit(record.host("api.example.test").path(&format!("/{number}")));
    }
}

/// What verification says of these files, in this order.
fn verify(files: &[&[u8]], expect_end: bool) -> Result<(Chained, Vec<Note>), Fault> {
    let mut verifier = ChainVerifier::new(key());
    let mut notes = Vec::new();
    for file in files {
        verifier.next_file();
        for line in file.split_inclusive(|&byte| byte == b'\n') {
            notes.extend(verifier.line(line)?);
        }
    }
    Ok((verifier.end(expect_end)?, notes))
}

fn fault(file: &[u8]) -> Option<(u64, Flaw)> {
    verify(&[file], true).err().map(|fault| (fault.line, fault.flaw))
}

/// A file that two runs of a writer left, with an end each.
static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    for run in 0..2 {
        emit(&open(&path), run * 10..run * 10 + 10);
    }
    fs::read(&path).unwrap()
});

fn lines(file: &[u8]) -> Vec<&[u8]> {
    file.split_inclusive(|&byte| byte == b'\n').collect()
}

#[test]
fn a_chain_goes_on_over_restarts_and_verifies() {
    let (chained, notes) = verify(&[&WHOLE], true).unwrap();
    assert_eq!((chained, notes.len()), (Chained { records: 24, ended: true }, 0));
    let text = String::from_utf8(WHOLE.clone()).unwrap();
    let values: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (number, value) in values.iter().enumerate() {
        assert_eq!(value["seq"], number, "{value}");
        assert_eq!(value["mac"].as_str().unwrap().len(), 64);
    }
    let own: Vec<_> =
        values.iter().filter(|value| value["sandbox"] == "-").map(|value| &value["type"]).collect();
    assert_eq!(own, [STARTED, ENDED, RESUMED, ENDED]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_byte_is_found_in_its_line(
        at in any::<prop::sample::Index>(), change in 1..=255_u8,
    ) {
        let mut file = WHOLE.clone();
        let at = at.index(file.len());
        let line = 1 + memchr::memchr_iter(b'\n', &file[..at]).count() as u64;
        file[at] ^= change;
        let (found, flaw) = fault(&file).expect("a changed byte");
        prop_assert_eq!(found, line, "{:?}", flaw);
    }

    #[test]
    fn a_removed_line_is_found_where_it_stood(at in 0..24_usize) {
        let mut lines = lines(&WHOLE);
        lines.remove(at);
        let (found, flaw) = fault(&lines.concat()).expect("a removed line");
        prop_assert_eq!(found, at as u64 + 1);
        let number = at as u64;
        match at {
            0 => prop_assert_eq!(flaw, Flaw::Headless { found: 1 }),
            23 => prop_assert_eq!(flaw, Flaw::NoEnd),
            _ => prop_assert_eq!(flaw, Flaw::Missing { expected: number, found: number + 1 }),
        }
    }

    #[test]
    fn swapped_lines_are_found_at_the_first(one in 0..24_usize, other in 0..24_usize) {
        prop_assume!(one != other);
        let mut lines = lines(&WHOLE);
        lines.swap(one, other);
        let (found, _) = fault(&lines.concat()).expect("swapped lines");
        prop_assert_eq!(found, one.min(other) as u64 + 1);
    }

    #[test]
    fn a_line_that_stands_twice_is_found_where_it_stands_again(
        line in 0..24_usize, to in 0..=24_usize,
    ) {
        let mut lines = lines(&WHOLE);
        let copy = lines[line];
        lines.insert(to, copy);
        // Right before the line the copy takes its place, and the line itself is the one that
        // stands there again.
        let again = if to == line { to + 1 } else { to };
        prop_assert_eq!(fault(&lines.concat()).expect("a line twice").0, again as u64 + 1);
    }

    #[test]
    fn whatever_is_put_in_is_found(at in 0..24_usize, junk in "\\PC{0,80}") {
        let mut lines = lines(&WHOLE);
        let junk = format!("{junk}\n");
        lines.insert(at, junk.as_bytes());
        prop_assert_eq!(fault(&lines.concat()).expect("junk").0, at as u64 + 1);
    }

    #[test]
    fn a_file_cut_anywhere_has_no_end(at in 0..10_000_usize) {
        prop_assume!(at < WHOLE.len());
        let file = &WHOLE[..at];
        let whole_lines = memchr::memchr_iter(b'\n', file).count() as u64;
        // The end of the first run is an end.
        prop_assume!(!(whole_lines == 12 && file.ends_with(b"\n")));
        prop_assert_eq!(fault(file).expect("a cut file").0, whole_lines + 1);
    }
}

#[test]
fn another_key_verifies_nothing() {
    let mut verifier = ChainVerifier::new(ChainKey::new(&[8; 32]).unwrap());
    assert_eq!(verifier.line(lines(&WHOLE)[0]), Err(Fault { line: 1, flaw: Flaw::Altered }));
}

#[test]
fn a_file_without_its_end_is_whole_as_far_as_can_be_known_and_says_so() {
    let lines = lines(&WHOLE);
    let cut = lines[..20].concat();
    let (chained, _) = verify(&[&cut], false).unwrap();
    assert_eq!(chained, Chained { records: 20, ended: false });
    assert_eq!(fault(&cut), Some((21, Flaw::NoEnd)));
    assert_eq!(verify(&[b""], false).unwrap_err(), Fault { line: 1, flaw: Flaw::Empty });
}

/// Files as a rotation leaves them, oldest first.
fn rotated(folder: &Path) -> [PathBuf; 3] {
    let path = folder.join("audit.jsonl");
    let old = [folder.join("audit.jsonl.2"), folder.join("audit.jsonl.1")];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let audit = open(&path);
    for (number, to) in (0..).zip(&old) {
        emit(&audit, number * 10..number * 10 + 10);
        runtime.block_on(audit.flush());
        // A signal without a rotation changes nothing.
        audit.reopen();
        runtime.block_on(audit.flush());
        fs::rename(&path, to).unwrap();
        audit.reopen();
    }
    emit(&audit, 20..30);
    drop(audit);
    let [first, second] = old;
    [first, second, path]
}

#[test]
fn o4_a_chain_goes_on_over_rotations_and_a_missing_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let files = rotated(folder.path()).map(|path| fs::read(path).unwrap());
    let [one, two, three] = [&files[0][..], &files[1], &files[2]];
    let (chained, notes) = verify(&[one, two, three], true).unwrap();
    assert_eq!((chained.records, notes), (34, vec![]));
    // Without the oldest, as retention leaves it, it is whole and says what it goes on after.
    assert_eq!(verify(&[two, three], true).unwrap().1, [Note::Continues(10)]);
    assert_eq!(verify(&[three], true).unwrap().1, [Note::Continues(21)]);
    let wrong = |expected, found| Flaw::WrongFile { expected, found };
    for (files, flaw) in [
        ([one, three].as_slice(), wrong(11, 22)),
        (&[one, two, two], wrong(22, 11)),
        (&[one, one], Flaw::Again),
    ] {
        assert_eq!(verify(files, false).unwrap_err(), Fault { line: 1, flaw });
    }
    // The start of a chain is bound to nothing before it; but what the other files go on after is
    // in it, or not at all.
    let late = |line| Fault { line, flaw: Flaw::Late };
    assert_eq!(verify(&[two, one, three], false).unwrap_err(), late(11));
    assert_eq!(verify(&[two, one], false).unwrap_err(), late(11));
    // The end of the first was removed: the next does not follow it.
    let cut = lines(one)[..8].concat();
    let fault = verify(&[&cut, two], false).unwrap_err();
    assert_eq!(fault, Fault { line: 1, flaw: Flaw::WrongFile { expected: 8, found: 11 } });
}

#[test]
fn a_writer_that_was_killed_shows_where_the_next_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    emit(&open(&path), 0..10);
    // What a kill, or somebody who removed the last lines while the writer was down, leaves.
    let cut = lines(&fs::read(&path).unwrap())[..6].concat();
    fs::write(&path, &cut).unwrap();
    emit(&open(&path), 10..12);
    let file = fs::read(&path).unwrap();
    assert_eq!(verify(&[&file], true).unwrap().1, [Note::Unclean]);
}

#[test]
fn half_a_line_at_the_end_takes_no_record_with_it_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    emit(&open(&path), 0..10);
    let mut torn = fs::read(&path).unwrap();
    torn.truncate(torn.len() - 30);
    fs::write(&path, &torn).unwrap();
    emit(&open(&path), 10..12);
    let file = fs::read(&path).unwrap();
    assert_eq!(fault(&file), Some((12, Flaw::NotARecord)));
    // What follows the torn line is a chain of its own.
    let after = lines(&file)[12..].concat();
    assert_eq!(verify(&[&after], true).unwrap().0.records, 4);
}

#[test]
fn records_of_before_the_chain_are_not_taken_for_sealed_ones() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    emit(&Audit::to_file(&path).unwrap(), 0..2);
    emit(&open(&path), 0..2);
    assert_eq!(fault(&fs::read(&path).unwrap()), Some((1, Flaw::Unsealed)));
    // Nor is a chain that starts after a sealed line.
    let mut file = WHOLE.clone();
    file.extend_from_slice(&WHOLE);
    assert_eq!(fault(&file), Some((25, Flaw::StartWithin)));
}

#[test]
fn a_second_writer_is_refused_or_waits_for_the_first_and_goes_on_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let first = open(&path);
    let chain = |wait| ChainOptions { key: key(), wait };
    let refused = Audit::to_file_chained(&path, AuditOptions::default(), chain(false)).unwrap_err();
    assert!(matches!(refused, AuditError::Taken { .. }), "{refused}");
    let second = Audit::to_file_chained(&path, AuditOptions::default(), chain(true)).unwrap();
    emit(&second, 10..20);
    emit(&first, 0..10);
    drop(first);
    drop(second);
    let file = fs::read(&path).unwrap();
    assert_eq!(verify(&[&file], true).unwrap(), (Chained { records: 24, ended: true }, vec![]));
    let text = String::from_utf8(file).unwrap();
    let order: Vec<_> = text
        .lines()
        .filter_map(|line| Some(line.split_once("\"path\":\"/")?.1.split_once('"')?.0))
        .collect();
    assert_eq!(order, (0..20).map(|number: u32| number.to_string()).collect::<Vec<_>>());
}
