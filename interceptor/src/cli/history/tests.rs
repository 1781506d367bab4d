use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::directory::keep;
use super::keeper::Keeper;
use super::{MOST_RUNS, kept_document};
use crate::audit::{Audit, Kind, Observer as _, Record, RequestId, Verdict};
use crate::cli::person::Person;
use crate::credential::Keyring;

const USER: u32 = 54321;

/// A home that belongs to a user, and that user.
struct Home {
    directory: TempDir,
    person: Person,
}

impl Home {
    fn new() -> Home {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let home = directory.path().join("home");
        fs::create_dir(&home).unwrap();
        chown(&home, Some(USER), Some(USER)).unwrap();
        let person = Person::with_variables(USER, &[("HOME", home.to_str().unwrap())]);
        Home { directory, person }
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("home/.local/state/interceptor")
    }

    /// A directory in the home, which belongs to the user as what is above it does.
    fn owned(&self, path: &str) -> PathBuf {
        let mut at = self.directory.path().join("home");
        for part in Path::new(path) {
            at.push(part);
            if !at.exists() {
                fs::create_dir(&at).unwrap();
                chown(&at, Some(USER), Some(USER)).unwrap();
            }
        }
        at
    }
}

fn record(path: &str) -> Record {
    let sandbox: Arc<str> = "s1".into();
    Record::new(&sandbox, RequestId::new(), Kind::Request, Verdict::Deny).host("h.test").path(path)
}

fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_last_runs_are_kept_for_their_user_alone() {
    let home = Home::new();
    for number in 0..MOST_RUNS + 3 {
        keep(&home.person, &format!("run-{number:02}"), &json!({})).unwrap();
    }
    fs::write(home.state().join("runs/notes.jsonl"), "somebody's own").unwrap();
    keep(&home.person, "last", &json!({})).unwrap();
    for (name, ending) in [("runs", "jsonl"), ("run-policies", "json")] {
        let directory = home.state().join(name);
        let about = fs::metadata(&directory).unwrap();
        assert_eq!((about.uid(), about.gid(), about.mode() & 0o7777), (USER, USER, 0o700));
        let mut names = Vec::new();
        for entry in fs::read_dir(&directory).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            if name != "notes.jsonl" {
                let about = entry.metadata().unwrap();
                assert_eq!((about.uid(), about.gid(), about.mode() & 0o7777), (USER, USER, 0o600));
                assert!(name.ends_with(ending), "{name}");
                names.push(name);
            }
        }
        names.sort();
        assert_eq!(names.len(), MOST_RUNS);
        assert!(names[0].contains("-run-04."), "{names:?}");
        assert!(names[MOST_RUNS - 1].contains("-last."), "{names:?}");
    }
    assert!(home.state().join("runs/notes.jsonl").exists());
}

#[test]
fn a_link_that_the_user_planted_leads_no_run_out_of_the_users_rights() {
    // The directory of the state, one below it, and one above it, which only the user's rights
    // follow.
    for planted in [".local/state/interceptor", ".local/state/interceptor/runs", ".local/state"] {
        let home = Home::new();
        let target = home.directory.path().join("roots");
        fs::create_dir(&target).unwrap();
        let planted = Path::new(planted);
        let parent = home.owned(planted.parent().unwrap().to_str().unwrap());
        symlink(&target, parent.join(planted.file_name().unwrap())).unwrap();
        let error = keep(&home.person, "s1", &json!({})).unwrap_err();
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0, "{error}");
    }
    // A directory of somebody else's is not the user's history.
    let home = Home::new();
    home.owned(".local/state");
    fs::create_dir(home.state()).unwrap();
    fs::set_permissions(home.state(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = keep(&home.person, "s1", &json!({})).unwrap_err();
    assert!(error.to_string().contains("another user"), "{error}");
}

#[tokio::test]
async fn every_record_of_a_run_is_kept_whether_or_not_there_is_an_audit_file() {
    for with_file in [false, true] {
        let home = Home::new();
        let file = home.directory.path().join("audit.jsonl");
        let audit = match with_file {
            true => Audit::to_file(&file).unwrap(),
            false => Audit::discard().unwrap(),
        };
        let kept = keep(&home.person, "s1", &json!({})).unwrap();
        let path = super::directory::path_of(&kept);
        audit.observe(Box::new(Keeper::new(kept, "s1")));
        (0..500).for_each(|number| audit.emit(record(&format!("/{number}"))));
        audit.shutdown().await;
        let kept = lines(&path);
        assert_eq!(kept.len(), 500);
        assert_eq!(kept[499]["path"], "/499");
        if with_file {
            assert_eq!(fs::read(&path).unwrap(), fs::read(&file).unwrap());
        }
    }
}

#[test]
fn a_sandbox_cannot_fill_the_disk_with_the_records_of_its_run() {
    let home = Home::new();
    let file = keep(&home.person, "s1", &json!({})).unwrap();
    let path = super::directory::path_of(&file);
    let mut keeper = Keeper::new(file, "s1").with_limit(100);
    let line = format!("{{\"x\":\"{}\"}}\n", "y".repeat(40));
    (0..5).for_each(|_| keeper.record(&record("/"), &line));
    // A short one that would still fit comes after the gap, and is not kept either.
    keeper.record(&record("/"), "{}\n");
    keeper.pause(false);
    keeper.pause(true);
    let kept = lines(&path);
    assert_eq!(kept.len(), 3, "{kept:?}");
    assert_eq!((&kept[2]["type"], &kept[2]["dropped"]), (&json!("audit_dropped"), &json!(4)));
}

#[test]
fn what_cannot_be_written_leaves_whole_lines() {
    let mut full = Keeper::new(fs::OpenOptions::new().write(true).open("/dev/full").unwrap(), "s1");
    (0..3).for_each(|_| full.record(&record("/"), "{}\n"));
    full.pause(false);
    full.record(&record("/"), "{}\n");
    full.pause(true);
}

#[test]
fn a_kept_policy_has_no_key_and_is_still_a_policy() {
    let text = r#"{"image":"sk-canary-0123456789abcdef",
        "credentials":{"openai":"sk-canary-0123456789abcdef"},
        "credentials_v2":{"my own":{"key":"sk-canary-0123456789abcdefg","hosts":["a.test"],
        "endpoints":[{"methods":["GET"],"paths":["/v1"]}]}}}"#;
    let catalogue = interceptor_policy::Catalogue::builtin();
    let policy = interceptor_policy::check(text, &catalogue).policy.unwrap();
    let keyring = Keyring::load(&policy, None).unwrap();
    let kept = kept_document(text, &policy, &keyring);
    assert!(!kept.to_string().contains("canary"), "{kept}");
    assert_eq!(kept["credentials"]["openai"], json!({ "env": "OPENAI_API_KEY" }));
    assert_eq!(kept["credentials_v2"]["my own"]["key"], json!({ "env": "MY_OWN_API_KEY" }));
    assert!(interceptor_policy::check(&kept.to_string(), &catalogue).policy.is_some());
}

#[test]
fn only_regular_files_are_read_back() {
    let home = Home::new();
    keep(&home.person, "s1", &json!({})).unwrap();
    let runs = home.state().join("runs");
    let planted = runs.join("29991231T235959.000000Z-x.jsonl");
    symlink("/etc/passwd", &planted).unwrap();
    let directories = super::directory::Directories::open(&home.person, false).unwrap();
    let names = super::directory::names(&directories.runs, super::RECORDS).unwrap();
    assert_eq!(names.len(), 2);
    let read = |name: &str| -> io::Result<String> {
        let mut text = String::new();
        super::past::regular(&directories.runs, name)?.read_to_string(&mut text)?;
        Ok(text)
    };
    assert!(read(&names[1]).is_err());
    assert_eq!(read(&names[0]).unwrap(), "");
}
