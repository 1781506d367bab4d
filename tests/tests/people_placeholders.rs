//! Placeholders that stay from run to run, for one user, policy and credential.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;

use interceptor_tests::lab::Lab;
use interceptor_tests::people::{Account, out, text};
use interceptor_tests::sandbox::binary;

const POLICY: &str = r#"{ "credentials_v2": {
    "one": { "key": { "env": "ONE_API_KEY" }, "hosts": ["one.test"], "env": "ONE_API_KEY" },
    "two": { "key": { "env": "TWO_API_KEY" }, "hosts": ["two.test"], "env": "TWO_API_KEY" }
} }"#;

const SHOW: &str = "printenv ONE_API_KEY TWO_API_KEY";

fn command(account: &Account, key: &str, options: &[&str], script: &str) -> Command {
    let interceptor = binary("interceptor");
    let before = [key, "sudo", interceptor.to_str().unwrap(), "run"];
    let words = [&before[..], options, &["--", "sh", "-c", script]].concat();
    let set = "export ONE_API_KEY=$1-one TWO_API_KEY=$1-two; shift; \"$@\"; exit $?";
    account.shell(set, &words)
}

#[track_caller]
fn placeholders(account: &Account, key: &str, options: &[&str]) -> String {
    let seen = out(&command(account, key, options, SHOW).output().unwrap());
    assert_eq!(seen.lines().collect::<BTreeSet<_>>().len(), 2, "{seen}");
    assert!(seen.lines().all(|line| line.starts_with("proxy-managed-")), "{seen}");
    seen
}

#[test]
fn placeholders_are_one_users_and_one_policys_and_stay() {
    Lab::test(|lab| {
        let (account, other) = (Account::new(lab.directory()), Account::new(lab.directory()));
        let shared = lab.directory().join("shared.json");
        fs::write(&shared, POLICY).unwrap();
        let shared = ["--policy", shared.to_str().unwrap()];
        let own = account.file("own.json", POLICY);
        let own = ["--policy", own.to_str().unwrap()];

        // The first two runs begin at the same time.
        let first =
            command(&account, "key-a", &own, SHOW).stdout(std::process::Stdio::piped()).spawn();
        let second = placeholders(&account, "key-a", &own);
        let first = out(&first.unwrap().wait_with_output().unwrap());
        assert_eq!(first, second);
        // The key behind it may be another one, and the file may be named in another way.
        assert_eq!(placeholders(&account, "key-b", &["--policy", "./own.json"]), first);
        fs::write(account.home().join("own.json"), POLICY.replace("two.test", "2.test")).unwrap();
        assert_eq!(placeholders(&account, "key-a", &own), first);

        let all = [
            first.clone(),
            placeholders(&account, "key-a", &shared),
            placeholders(&other, "key-a", &shared),
            placeholders(&account, "key-a", &[&own[..], &["--user", other.name()]].concat()),
            placeholders(&account, "key-a", &[&own[..], &["--fresh-placeholders"]].concat()),
            placeholders(&account, "key-a", &[&own[..], &["--fresh-placeholders"]].concat()),
        ];
        let different: BTreeSet<&str> = all.iter().flat_map(|both| both.lines()).collect();
        assert_eq!(different.len(), 2 * all.len(), "{all:?}");
        assert_eq!(placeholders(&account, "key-a", &own), first);
        assert_eq!(placeholders(&account, "key-a", &shared), all[1]);
    });
}

#[test]
fn the_key_of_the_placeholders_is_its_users_alone() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let own = account.file("own.json", POLICY);
        let own = ["--policy", own.to_str().unwrap()];
        let first = placeholders(&account, "key-a", &own);
        let file = account.home().join(".local/state/interceptor/placeholder.key");
        let status = fs::metadata(&file).unwrap();
        assert_eq!((status.uid(), status.len()), (account.uid(), 32));
        assert_eq!(status.permissions().mode() & 0o777, 0o600);
        let inside =
            "ls -A ~/.local/state/interceptor; cat ~/.local/state/interceptor/* 2>&1; true";
        let seen = command(&account, "key-a", &own, inside).output().unwrap();
        assert!(!out(&seen).contains("placeholder.key"), "{}", text(&seen.stdout));
        let beside = fs::read_dir(file.parent().unwrap()).unwrap().flatten();
        let names: Vec<_> = beside.map(|entry| entry.file_name().into_string().unwrap()).collect();
        assert_eq!(names.iter().filter(|name| name.contains("key")).count(), 1, "{names:?}");

        // A file that others could have written is closed; what is no key of the user's is not
        // used.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(placeholders(&account, "key-a", &own), first);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        chown(&file, Some(0), None).unwrap();
        assert_ne!(placeholders(&account, "key-a", &own), first);
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/etc/machine-id", &file).unwrap();
        assert_ne!(placeholders(&account, "key-a", &own), placeholders(&account, "key-a", &own));
    });
}
