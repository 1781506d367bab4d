//! A run's policy follows its file: by itself where the sandbox's user could not have written it,
//! else when the user says so outside, and never because of what happens inside.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use interceptor_tests::Lab;
use interceptor_tests::conversing::{Conversing, typed};
use interceptor_tests::people::Account;
use serde_json::json;

const ONE: &str = r#"{ "network": { "allow": ["one.test"] } }"#;
const TWO: &str = r#"{ "network": { "allow": ["two.test"] } }"#;
const BOTH: &str = r#"{ "network": { "allow": ["one.test", "two.test"] } }"#;
const IN_FORCE: &str = "changed and is in force: ";
const WAITS: &str = "the old one stays in force, because ";

/// What the policy permits of both names.
#[track_caller]
fn permitted(run: &mut Conversing) -> Vec<&'static str> {
    let names = ["one.test", "two.test"].into_iter();
    names.filter(|name| run.verdict(name) != "host_denied").collect()
}

/// Waits until it has said something so many times.
#[track_caller]
fn wait_for_times(run: &Conversing, text: &str, times: usize) {
    for _ in 0..1500 {
        if run.said().matches(text).count() >= times {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("{text:?} was not said {times} times: {}", run.said());
}

/// A directory of root's, with a policy.
fn roots(lab: &Lab) -> PathBuf {
    let directory = lab.directory().join("policies");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    let policy = directory.join("p.json");
    fs::write(&policy, ONE).unwrap();
    policy
}

#[test]
fn a_policy_that_only_root_can_write_follows_its_file() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let policy = roots(lab);
        let said = lab.directory().join("said");
        let options = ["--name", account.name(), "--policy", policy.to_str().unwrap()];
        let mut run = Conversing::start(&account, "true", &options, &said);
        assert_eq!(permitted(&mut run), ["one.test"]);
        // Written in place.
        fs::write(&policy, BOTH).unwrap();
        run.wait_for(&format!("the policy {} {IN_FORCE}allow +two.test\n", policy.display()));
        assert_eq!(permitted(&mut run), ["one.test", "two.test"]);
        // As most editors do: a new file in the old one's place, and a backup.
        let next = policy.with_extension("swp");
        fs::write(&next, TWO).unwrap();
        fs::rename(&policy, policy.with_extension("json~")).unwrap();
        fs::rename(&next, &policy).unwrap();
        run.wait_for(&format!("{IN_FORCE}allow -one.test\n"));
        assert_eq!(permitted(&mut run), ["two.test"]);
        // An invalid one changes nothing and is reported once, however often it is written.
        for _ in 0..3 {
            fs::write(&policy, "{ \"netwrok\": {} }").unwrap();
            run.wait_for("the old one stays in force: line 1: ");
        }
        assert_eq!(permitted(&mut run), ["two.test"]);
        fs::remove_file(&policy).unwrap();
        assert_eq!(permitted(&mut run), ["two.test"]);
        fs::write(&policy, ONE).unwrap();
        wait_for_times(&run, IN_FORCE, 3);
        assert_eq!(permitted(&mut run), ["one.test"]);
        // What is reached by a link, as volumes of ConfigMaps are.
        let said = run.end();
        assert_eq!(said.matches("cannot be used").count(), 1, "{said}");
        assert_eq!(said.lines().count(), 4, "{said}");
    });
}

#[test]
fn a_policy_behind_links_follows_them_and_one_that_is_not_watched_stays() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let policy = roots(lab);
        let directory = policy.parent().unwrap();
        for (version, text) in [("v1", ONE), ("v2", TWO)] {
            fs::create_dir(directory.join(version)).unwrap();
            fs::write(directory.join(version).join("p.json"), text).unwrap();
        }
        symlink("v1", directory.join("data")).unwrap();
        fs::remove_file(&policy).unwrap();
        symlink("data/p.json", &policy).unwrap();
        let said = |name: &str| lab.directory().join(name);
        let named = ["--policy", policy.to_str().unwrap()];
        let mut run = Conversing::start(&account, "true", &named, &said("watched"));
        let unwatched = [&named[..], &["--no-watch"]].concat();
        let mut other = Conversing::start(&account, "true", &unwatched, &said("unwatched"));
        symlink("v2", directory.join("next")).unwrap();
        fs::rename(directory.join("next"), directory.join("data")).unwrap();
        run.wait_for(IN_FORCE);
        assert_eq!(permitted(&mut run), ["two.test"]);
        assert_eq!(permitted(&mut other), ["one.test"]);
        run.end();
        assert_eq!(other.end(), "");
    });
}

#[test]
fn a_change_that_the_sandboxs_user_could_have_made_waits_for_trust() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        account.directory(Path::new("project"));
        let policy = account.file("project/p.json", ONE);
        let path = policy.to_str().unwrap();
        let said = lab.directory().join("said");
        let options = ["-q", "--policy", path];
        let mut quiet = Conversing::start(&account, "true", &options, &said);
        // At once: a file that is being written may be seen empty, which is said.
        fs::rename(account.file("project/next.json", TWO), &policy).unwrap();
        assert_eq!(permitted(&mut quiet), ["one.test"]);
        assert_eq!(quiet.end(), "");
        fs::write(&policy, ONE).unwrap();

        let mut run = Conversing::start(&account, "true", &options[1..], &said);
        fs::write(&policy, BOTH).unwrap();
        run.wait_for(WAITS);
        let told = run.said();
        assert!(told.contains("(allow +two.test)"), "{told}");
        assert_eq!(permitted(&mut run), ["one.test"]);
        // The command that was told trusts what was told of, and nothing that came after.
        let (_, typed_in_full) = told.split_once("type elsewhere: interceptor ").unwrap();
        let words: Vec<&str> = typed_in_full.split_whitespace().collect();
        assert_eq!((words.len(), words[1], words[2]), (4, path, "--sha256"));
        let wide = r#"{ "network": { "allow": ["*"] } }"#;
        fs::write(&policy, wide).unwrap();
        wait_for_times(&run, WAITS, 2);
        let (status, told) = typed(&account, "true", &words);
        assert!(status == Some(1) && told.contains("has changed again"), "{told}");
        assert_eq!(permitted(&mut run), ["one.test"]);
        fs::write(&policy, BOTH).unwrap();
        wait_for_times(&run, WAITS, 3);
        assert_eq!(permitted(&mut run), ["one.test"]);
        // Outside, the user says so.
        let (status, told) = typed(&account, "true", &words);
        assert_eq!(status, Some(0), "{told}");
        run.wait_for(IN_FORCE);
        assert_eq!(permitted(&mut run), ["one.test", "two.test"]);
        // Another content does not hold, nor does an old one that was trusted once.
        for (text, times) in [(TWO, 4), (ONE, 5)] {
            fs::write(&policy, text).unwrap();
            wait_for_times(&run, WAITS, times);
            assert_eq!(permitted(&mut run), ["one.test", "two.test"]);
        }
        let (status, _) = typed(&account, "true", &["trust", path]);
        assert_eq!(status, Some(0));
        wait_for_times(&run, IN_FORCE, 2);
        assert_eq!(permitted(&mut run), ["one.test"]);
        fs::write(&policy, BOTH).unwrap();
        wait_for_times(&run, WAITS, 6);
        assert_eq!(permitted(&mut run), ["one.test"]);
        run.end();
    });
}

#[test]
fn a_found_policy_waits_for_trust_whoever_can_write_it() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        // Root's, so that the user could not have written it.
        let project = account.directory(Path::new("project"));
        let policy = project.join("interceptor.json");
        fs::write(&policy, ONE).unwrap();
        let home = account.home();
        for path in [&project, home] {
            chown(path, Some(0), Some(0)).unwrap();
        }
        let state = account.directory(Path::new("state"));
        chown(home, Some(0), Some(0)).unwrap();
        let before = format!("cd project; export XDG_STATE_HOME={}", state.display());
        let (status, told) = typed(&account, &before, &["trust"]);
        assert_eq!(status, Some(0), "{told}");
        let said = lab.directory().join("said");
        let mut run = Conversing::start(&account, &before, &[], &said);
        fs::write(&policy, BOTH).unwrap();
        run.wait_for(&format!("{WAITS}this policy holds only when you trust it"));
        assert_eq!(permitted(&mut run), ["one.test"]);
        typed(&account, &before, &["trust"]);
        run.wait_for(IN_FORCE);
        assert_eq!(permitted(&mut run), ["one.test", "two.test"]);
        run.end();
    });
}

/// What a command inside may try, with the policy as `$P`, a project as `.`, and the product as
/// `$I`.
const TRIES: &str = "echo \"$WIDE\" > $P; cp /dev/null $P; echo \"$WIDE\" > new; mv -f new $P; \
    echo \"$WIDE\" > new; ln -sf new $P; rm -f $P; ln -f new $P; mv ../project ../gone; \
    mkdir -p ../project && echo \"$WIDE\" > ../project/p.json; mount --bind new $P; \
    unshare -rm mount --bind new $P; $I trust $P; $I trust new; \
    $I ctl policy put $NAME new; echo done";

#[test]
fn p1_nothing_that_happens_inside_changes_the_policy() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let said = |name: &str| lab.directory().join(name);
        for name in ["own", "named", "roots"] {
            let policy = match name {
                "own" => account.file("own/project/p.json", ONE),
                // Where policies are named, which is hidden inside.
                "named" => account.file(".config/interceptor/policies/agent.json", ONE),
                _ => {
                    let policy = account.directory(Path::new("roots/project")).join("p.json");
                    fs::write(&policy, ONE).unwrap();
                    policy
                }
            };
            let path = if name == "named" { "agent" } else { policy.to_str().unwrap() };
            let id = format!("{}-{name}", account.name());
            let options = ["--name", &id, "--policy", path];
            account.directory(Path::new(&format!("{name}/project")));
            let before = format!("cd {name}/project");
            let mut run = Conversing::start(&account, &before, &options, &said(name));
            let wide = json!({ "network": { "allow": ["*"] } });
            let program = interceptor_tests::sandbox::binary("interceptor");
            let tries = format!(
                "WIDE='{wide}' P={} I={} NAME={id}; {TRIES}",
                policy.display(),
                program.display()
            );
            let seen = run.inside(&tries);
            assert!(seen.ends_with("done"), "{seen}");
            assert!(!seen.contains("trusted: /") || name == "named", "{seen}");
            assert_eq!(permitted(&mut run), ["one.test"], "{name}: {seen}\n{}", run.said());
            // Nor what the user does to other files outside.
            fs::write(lab.directory().join("other"), "x").unwrap();
            assert_eq!(permitted(&mut run), ["one.test"], "{name}");
            let told = run.end();
            assert!(!told.contains(IN_FORCE), "{told}");
            let trusted = account.home().join(".local/state/interceptor/trusted");
            assert!(!trusted.exists(), "{name}");
        }
    });
}

#[test]
fn a_key_that_the_sandbox_can_read_does_not_come_into_force() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let policy = roots(lab);
        let key = lab.another_key();
        let said = lab.directory().join("said");
        let options = ["--policy", policy.to_str().unwrap(), "--env", "PASSED"];
        let before = format!("export PASSED={key}");
        let mut run = Conversing::start(&account, &before, &options, &said);
        let with = |source: serde_json::Value| {
            json!({ "network": { "allow": ["one.test", "two.test"] }, "credentials_v2": { "lab": {
                "key": source, "hosts": ["two.test"], "env": "LAB_API_KEY" } } })
            .to_string()
        };
        fs::write(&policy, with(json!({ "env": "PASSED" }))).unwrap();
        run.wait_for("has one of the keys in PASSED");
        let file = account.file("own.key", &lab.another_key());
        fs::write(&policy, with(json!({ "file": file }))).unwrap();
        run.wait_for("can read the key's file");
        assert_eq!(permitted(&mut run), ["one.test"]);
        // One that only root can read does.
        let roots = lab.secret_file("roots.key", &lab.another_key());
        chown(&roots, Some(0), Some(0)).unwrap();
        fs::set_permissions(&roots, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&policy, with(json!({ "file": roots }))).unwrap();
        run.wait_for(&format!("{IN_FORCE}credentials +lab; allow +two.test\n"));
        assert_eq!(permitted(&mut run), ["one.test", "two.test"]);
        let told = run.end();
        assert!(!told.contains(&key), "{told}");
    });
}

/// What a sandbox may try where `~/.local` or a directory above it is a link: forges what is
/// trusted, in its place.
const FORGE: &str = "cd; rm -f .local; mv .local gone; ln -sfn project .local; mv dots more; \
    mkdir -p dots/local .local/state/interceptor dots/local/state/interceptor; \
    for at in .local dots/local; do \
    echo \"$SUM 2999-01-01T00:00:00Z  x\" > $at/state/interceptor/trusted; done; readlink .local";

#[test]
fn a_link_on_the_way_to_what_is_trusted_stays() {
    Lab::test(|lab| {
        // One that leads to a directory, one that leads to none yet, and one by another link.
        for (number, name) in ["deep/local", "deep/none", "dots/local"].into_iter().enumerate() {
            let account = Account::new(lab.directory());
            for made in ["deep/local", "project", "dots"] {
                account.directory(Path::new(made));
            }
            let (link, by) = (account.home().join(".local"), account.home().join("dots/local"));
            symlink("../deep/local", &by).unwrap();
            symlink(name, &link).unwrap();
            let policy = account.file("project/p.json", ONE);
            let said = lab.directory().join(format!("said{number}"));
            let options = ["--policy", policy.to_str().unwrap()];
            let mut run = Conversing::start(&account, "true", &options, &said);
            let sum = account.run("printf %s \"$1\" | sha256sum | cut -d' ' -f1", &[TWO]);
            let sum = String::from_utf8(sum.stdout).unwrap();
            let seen = run.inside(&format!("SUM={}; {FORGE}", sum.trim()));
            fs::write(&policy, TWO).unwrap();
            run.wait_for(WAITS);
            assert_eq!(permitted(&mut run), ["one.test"], "{seen}");
            assert!(seen.ends_with(name), "{seen}");
            run.end();
            assert_eq!(fs::read_link(&link).unwrap(), Path::new(name));
            let is_by = name == "dots/local";
            assert!(!is_by || fs::read_link(&by).unwrap() == Path::new("../deep/local"), "{seen}");
            let trusted = link.join("state/interceptor/trusted");
            assert!(!trusted.exists(), "{seen}");
        }
    });
}

#[test]
fn a_policy_that_somebody_else_could_write_is_read_without_roots_rights() {
    Lab::test(|lab| {
        // The command is another user's, who cannot write the policy; the caller of sudo can.
        let (account, agent) = (Account::new(lab.directory()), Account::new(lab.directory()));
        account.directory(Path::new("project"));
        let policy = account.file("project/p.json", ONE);
        let roots = lab.secret_file("roots.key", &lab.another_key());
        chown(&roots, Some(0), Some(0)).unwrap();
        fs::set_permissions(&roots, fs::Permissions::from_mode(0o600)).unwrap();
        let said = lab.directory().join("said");
        let options = ["--user", agent.name(), "--policy", policy.to_str().unwrap()];
        let mut run = Conversing::start(&account, "true", &options, &said);
        fs::write(&policy, BOTH).unwrap();
        run.wait_for(IN_FORCE);
        assert_eq!(permitted(&mut run), ["one.test", "two.test"]);
        let with = json!({ "network": { "allow": ["two.test"] }, "credentials_v2": { "lab": {
            "key": { "file": roots }, "hosts": ["two.test"], "env": "LAB_API_KEY" } } });
        fs::write(&policy, with.to_string()).unwrap();
        run.wait_for("cannot be used");
        assert!(run.said().contains("Permission denied"), "{}", run.said());
        // Nor is a file that only root may read taken for a policy.
        fs::remove_file(&policy).unwrap();
        let link = policy.with_extension("link");
        symlink(&roots, &link).unwrap();
        fs::rename(&link, &policy).unwrap();
        assert_eq!(permitted(&mut run), ["one.test", "two.test"]);
        run.end();
    });
}

#[test]
fn what_was_trusted_and_could_not_be_used_is_tried_when_it_is_trusted_again() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        account.directory(Path::new(".ssh"));
        let key = account.home().join(".ssh/lab.key");
        let policy = account.file("project/p.json", ONE);
        let path = policy.to_str().unwrap();
        let said = lab.directory().join("said");
        let mut run = Conversing::start(&account, "true", &["--policy", path], &said);
        let with = json!({ "network": { "allow": ["two.test"] }, "credentials_v2": { "lab": {
            "key": { "file": key }, "hosts": ["two.test"], "env": "LAB_API_KEY" } } });
        fs::write(&policy, with.to_string()).unwrap();
        run.wait_for(WAITS);
        for times in [1, 2] {
            let (status, told) = typed(&account, "true", &["trust", path]);
            assert_eq!(status, Some(0), "{told}");
            wait_for_times(&run, "cannot be used", times);
        }
        assert_eq!(permitted(&mut run), ["one.test"]);
        account.file(".ssh/lab.key", &lab.another_key());
        // By itself it does not, whatever happens to the file.
        fs::write(&policy, with.to_string()).unwrap();
        assert_eq!(permitted(&mut run), ["one.test"]);
        typed(&account, "true", &["trust", path]);
        run.wait_for(IN_FORCE);
        assert_eq!(permitted(&mut run), ["two.test"]);
        run.end();
    });
}
