//! A policy and an audit file in the project that a command works on, with the real git.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use interceptor_tests::lab::Lab;
use interceptor_tests::people::{Account, out, text};
use interceptor_tests::sandbox::binary;
use serde_json::{Value, json};

/// A repository below the home with one commit.
fn repository(account: &Account) {
    account.file("project/src/code", "one\n");
    let script = "git config --global user.email a@b.test; git config --global user.name A; \
                  git config --global init.defaultBranch main; cd project && git init -q && \
                  git add src && git commit -qm first";
    out(&account.run(script, &[]));
}

/// Runs a script in a directory of the project with its policy and audit file.
fn run(account: &Account, directory: &str, script: &str) -> Output {
    let interceptor = binary("interceptor");
    let home = account.home().join("project");
    let (policy, audit) = (home.join("policy.json"), home.join("audit.jsonl"));
    let policy = ["--policy", policy.to_str().unwrap(), "--audit", audit.to_str().unwrap()];
    // What an option adds must not show in the file.
    let added = "--allow=added.test";
    let before = [directory, "sudo", interceptor.to_str().unwrap(), "run", "-q", added];
    let words = [&before[..], &policy, &["--", "sh", "-c", script]].concat();
    account
        .run("export OWN_API_KEY=key-from-environment; cd \"$1\"; shift; \"$@\"; exit $?", &words)
}

fn policy(key: &Value) -> String {
    let own = json!({ "key": key, "hosts": ["own.test"], "env": "OWN_API_KEY" });
    format!("{:#}\n", json!({ "credentials_v2": { "own": own } }))
}

/// Every object of the repository, and its index, in one text.
fn everything(account: &Account) -> String {
    let script = "git cat-file --batch-all-objects --batch --unordered; cat .git/index";
    let mut command = account.shell(&format!("cd project && {script}"), &[]);
    text(&command.output().unwrap().stdout)
}

const WORK: &str = "set -e; git status --porcelain; git add -A; git status --porcelain; \
                    echo two >> src/code; git commit -qam second; echo three >> src/code; \
                    echo new > new; git stash -q -u; git status --porcelain; git stash pop -q; \
                    git add -A; git status --porcelain; git commit -qm third; git log --format=%s";

const DONE: &str = "M  src/code\nA  new\nthird\nsecond\nfirst\n";

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn git_works_in_a_project_with_a_policy_and_no_literal_key_enters_it() {
    Lab::test(|lab| {
        for directory in ["project", "project/src"] {
            let account = Account::new(lab.directory());
            repository(&account);
            let key = lab.another_key();
            let file = account.file("project/policy.json", &policy(&json!(key)));
            let script = WORK.replace("src/code", "$(git rev-parse --show-toplevel)/src/code");
            let script = script.replace("> new", "> $(git rev-parse --show-toplevel)/new");
            let output = run(&account, directory, &script);
            assert_eq!(sorted(&out(&output)), sorted(DONE), "{}", text(&output.stderr));
            let all = everything(&account);
            assert!(all.contains("three") && !all.contains(&key), "{directory}");
            assert!(!all.contains("credentials_v2"), "the policy is ignored");
            // Outside, all is as it was.
            assert!(fs::read_to_string(&file).unwrap().contains(&key));
            let status = account.run("cd project && git status --porcelain", &[]);
            assert_eq!(out(&status), "?? audit.jsonl\n?? policy.json\n");
        }
    });
}

#[test]
fn a_policy_that_git_knows_is_as_it_was_committed() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        repository(&account);
        let content = policy(&json!({ "env": "OWN_API_KEY" }));
        account.file("project/policy.json", &content);
        out(&account.run("cd project && git add -A && git commit -qm policy", &[]));
        let script = format!("cat policy.json; {WORK}; git show HEAD:policy.json");
        let output = run(&account, "project", &script);
        let (done, seen) = (out(&output), content.as_str());
        let middle = done.strip_prefix(seen).and_then(|rest| rest.strip_suffix(seen));
        let middle = middle.unwrap_or_else(|| panic!("{done}"));
        assert_eq!(sorted(middle), sorted(&format!("{DONE}policy\n")), "{}", text(&output.stderr));
        assert!(!everything(&account).contains("key-from-environment"));
    });
}

#[test]
fn a_policy_in_the_project_reads_as_it_is_without_its_keys_and_cannot_be_changed() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        repository(&account);
        let key = lab.another_key();
        let plain = policy(&json!(key));
        // In the file once more, as JSON may also write it.
        let spelt: String = key.bytes().map(|byte| format!("\\u{byte:04x}")).collect();
        let content = plain.replacen("{\n", &format!("{{\n  \"image\": \"{spelt}\",\n"), 1);
        let file = account.file("project/policy.json", &content);
        let script = "cat policy.json; printenv OWN_API_KEY; \
                      { echo x > policy.json || rm -f policy.json || mv policy.json x || \
                        chmod u+w policy.json || cat audit.jsonl || echo x >> audit.jsonl; } \
                      2>/dev/null || echo refused; ls; grep -rls own . --include='*.json*'; true";
        let output = run(&account, "project", script);
        let seen = out(&output);
        assert!(!seen.contains(&key) && !seen.contains(&spelt), "{seen}");
        let (shown, rest) = seen.split_once("\n}\n").unwrap();
        let shown: Value = serde_json::from_str(&format!("{shown}\n}}")).unwrap();
        let mut expected: Value = serde_json::from_str(&content).unwrap();
        let placeholder = rest.lines().next().unwrap();
        let masked = shown["credentials_v2"]["own"]["key"].as_str().unwrap();
        assert!(masked.starts_with(placeholder) || placeholder.starts_with(masked), "{seen}");
        expected["credentials_v2"]["own"]["key"] = json!(masked);
        expected["image"] = shown["image"].clone();
        assert_eq!(shown, expected);
        assert!(
            rest.ends_with("refused\naudit.jsonl\npolicy.json\nsrc\n./policy.json\n"),
            "{seen}"
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), content);

        // One that the user cannot read outside is not shown inside, and not in the way.
        let status = Command::new("chown").arg("root").arg(&file).status().unwrap();
        assert!(status.success());
        let close = Command::new("chmod").arg("600").arg(&file).status().unwrap();
        assert!(close.success());
        let output = run(&account, "project", &format!("cat policy.json 2>&1; {WORK}"));
        assert!(out(&output).starts_with("cat: policy.json: Permission denied"), "{output:?}");
        assert!(!everything(&account).contains(&key));
    });
}

#[test]
fn a_policy_outside_the_project_stays_hidden_and_a_working_tree_of_another_is_understood() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        repository(&account);
        let key = lab.another_key();
        account.file("elsewhere/code", "");
        account.file("project/policy.json", &policy(&json!(key)));
        let output = run(&account, "elsewhere", "cat ../project/policy.json; true");
        assert!(!out(&output).contains("credentials"), "{output:?}");

        out(&account.run("cd project && git worktree add -q ../tree", &[]));
        let exclude = account.home().join("project/.git/info");
        fs::remove_dir_all(&exclude).unwrap();
        let policies = account.home().join("project/policy.json");
        fs::rename(policies, account.home().join("tree/policy.json")).unwrap();
        let interceptor = binary("interceptor");
        let script = format!(
            "cd tree && sudo {} run -q --policy policy.json -- sh -c 'git status --porcelain && \
             git add -A && git commit -q --allow-empty -m tree'; exit $?",
            interceptor.display()
        );
        assert_eq!(out(&account.run(&script, &[])), "");
        assert!(!everything(&account).contains(&key));
        assert_eq!(fs::read_to_string(exclude.join("exclude")).unwrap(), "");
        assert!(Path::new(&account.home().join("tree/policy.json")).exists());
    });
}
