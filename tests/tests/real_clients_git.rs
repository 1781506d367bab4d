//! git over HTTPS against git's own `http-backend`, which asks, as GitHub does, for Basic
//! authentication with the user `x-access-token`: clone, fetch and push, with no credentials at
//! all, with the placeholder in the URL, and by a helper.

use std::path::PathBuf;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use interceptor_tests::clients::conversation::assert_no_placeholder;
use interceptor_tests::{Lab, Outcome};
use serde_json::{Value, json};

const HOST: &str = "github.com";

/// Reading and pushing `o/r`, and reading `o/read-only`.
fn policy(lab: &Lab) -> Value {
    json!({
        "network": { "allow": [HOST] },
        "credentials_v2": { "github": {
            "key": { "file": lab.key_file() },
            "endpoints": [
                { "methods": ["GET", "POST"], "paths": ["/o/r.git/"] },
                { "methods": ["GET"], "paths": ["/o/read-only.git/info/refs"] },
                { "methods": ["POST"], "paths": ["/o/read-only.git/git-upload-pack"] },
            ],
        } },
    })
}

fn git(arguments: &[&str]) -> String {
    let mut git = Command::new("git");
    git.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", "/nonexistent");
    let output = git.args(["-c", "safe.directory=*"]).args(arguments).output().expect("git");
    assert!(
        output.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Two bare repositories with one commit each, which the origin serves.
fn repositories(lab: &Lab) -> PathBuf {
    let root = lab.directory().join("repositories");
    for name in ["o/r.git", "o/read-only.git"] {
        let repository = root.join(name);
        let path = repository.to_str().expect("a path in UTF-8");
        git(&["init", "--quiet", "--bare", "--initial-branch=main", path]);
        let tree = git(&["-C", path, "hash-object", "-w", "-t", "tree", "/dev/null"]);
        let identity = ["-c", "user.name=lab", "-c", "user.email=lab@example.test", "-C", path];
        let commit = git(&[&identity[..], &["commit-tree", "-m", "the first", &tree]].concat());
        git(&["-C", path, "update-ref", "refs/heads/main", &commit]);
    }
    lab.shared().repositories.set((root.clone(), lab.key().to_owned())).expect("set once");
    root
}

/// Each request that the backend was asked had Basic authentication with the real key.
#[track_caller]
fn assert_basic(lab: &Lab) {
    let seen = lab.seen();
    assert!(!seen.is_empty());
    let basic = format!("Basic {}", STANDARD.encode(format!("x-access-token:{}", lab.key())));
    for request in seen {
        assert_eq!(request.values("authorization"), [&basic], "{request:#?}");
        assert!(request.tls && request.protocol == "h2", "{request:#?}");
        assert_no_placeholder(&request);
    }
}

fn run(lab: &Lab, script: &str) -> Outcome {
    let script = format!("set -e; export GIT_TERMINAL_PROMPT=0; git version; {script}");
    lab.sandbox(&policy(lab)).at_origin(HOST).shell(&script)
}

#[test]
fn clone_commit_and_push_without_any_credentials() {
    Lab::test(|lab| {
        let root = repositories(lab);
        // More than git's http.postBuffer (1 MiB), so that the pack is sent in chunks, and
        // incompressible.
        let outcome = run(
            lab,
            "git clone --quiet https://github.com/o/r.git one; cd one; \
             head -c 3000000 /dev/urandom > big; git add big; \
             git -c user.name=a -c user.email=a@example.test commit --quiet -m big; \
             git push --quiet; sha256sum < big; cd ..; \
             git clone --quiet https://github.com/o/r.git two; sha256sum < two/big; \
             cd two; git fetch --quiet; git rev-parse HEAD",
        );
        outcome.success();
        let out = outcome.out();
        let lines: Vec<&str> = out.lines().skip(1).collect();
        assert_eq!(lines.len(), 3, "{out}");
        assert_eq!(lines[0], lines[1], "what was pushed is not what was cloned: {out}");
        let path = root.join("o/r.git");
        assert_eq!(git(&["-C", path.to_str().expect("UTF-8"), "rev-parse", "main"]), lines[2]);
        assert_basic(lab);
        let pushed = lab.seen().into_iter().filter(|seen| seen.path.ends_with("/git-receive-pack"));
        let longest = pushed.max_by_key(|seen| seen.body_bytes).expect("a push");
        assert!(longest.body_bytes.is_some_and(|bytes| bytes > 3_000_000), "{longest:#?}");
        assert!(
            longest.values("content-length").is_empty(),
            "the pack was not sent in chunks: {longest:#?}"
        );
    });
}

#[test]
fn the_placeholder_in_the_url_or_from_a_helper_becomes_the_key() {
    Lab::test(|lab| {
        repositories(lab);
        run(lab, "git clone --quiet https://x-access-token:$GITHUB_TOKEN@github.com/o/r.git one")
            .success();
        // As `gh auth setup-git` sets it up: git asks the helper once the server has refused it
        // without.
        let helper = "!f() { echo username=x-access-token; echo password=$GITHUB_TOKEN; }; f";
        run(
            lab,
            &format!(
                "git -c credential.helper='{helper}' clone --quiet https://github.com/o/r.git two"
            ),
        )
        .success();
        // As CI runners do it.
        run(
            lab,
            "basic=$(printf 'x-access-token:%s' \"$GH_TOKEN\" | base64 -w0); \
             git -c http.extraheader=\"AUTHORIZATION: basic $basic\" clone \
             --quiet https://github.com/o/r.git three",
        )
        .success();
        assert_basic(lab);
    });
}

#[test]
fn a_push_that_no_rule_permits_is_refused() {
    Lab::test(|lab| {
        let root = repositories(lab);
        let outcome = run(
            lab,
            "git clone --quiet https://github.com/o/read-only.git one; cd one; git -c user.name=a \
             -c user.email=a@example.test commit --quiet --allow-empty -m second; git push",
        );
        assert!(!outcome.status.success());
        assert!(outcome.err().contains("403"), "{}", outcome.tail());
        let denied = outcome.requests("deny");
        assert!(
            denied
                .iter()
                .all(|record| record.path.as_deref() == Some("/o/read-only.git/git-receive-pack"))
        );
        assert!(!denied.is_empty());
        let path = root.join("o/read-only.git");
        let log = git(&["-C", path.to_str().expect("UTF-8"), "rev-list", "--count", "main"]);
        assert_eq!(log, "1", "nothing was pushed");
        assert_basic(lab);
    });
}

#[test]
fn a_repository_that_no_rule_names_is_refused_in_words() {
    Lab::test(|lab| {
        repositories(lab);
        let outcome = run(lab, "git clone --quiet https://github.com/o/other.git");
        assert!(!outcome.status.success());
        let told = outcome.err();
        let told = told.lines().find(|line| line.starts_with("remote: ")).unwrap_or_default();
        assert!(
            told.contains("GET /o/other.git/info/refs was refused"),
            "{told}\n{}",
            outcome.tail()
        );
        outcome.one_denied("endpoint_denied");
        assert!(lab.seen().is_empty());
    });
}
