//! `interceptor check`.

use std::path::Path;

use serde_json::json;

use super::Desk;

#[test]
fn check_reports_every_error_with_its_pointer_and_exits_1() {
    let desk = Desk::new();
    let bad = desk.file(
        "bad.json",
        r#"{"netwrok":{},"credentials_v2":{"openai":{"key":"sk-CANARY",
            "endpoints":[{"methods":["GET"],"paths":["/a/b","c"]}]}}}"#,
    );
    let (seen, code) = desk.json(&["check", "--json", &bad.display().to_string()]);
    assert_eq!(code, 1);
    let paths: Vec<&str> = seen["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["/netwrok", "/credentials_v2/openai/endpoints/0/paths/1"]);
    assert_eq!(seen["warnings"], json!([]));
    let good = desk
        .file("good.json", r#"{"credentials_v2":{"openai":{"key":"sk-CANARY","endpoints":[]}}}"#);
    let (seen, code) =
        desk.json(&["check", "--json", &good.display().to_string(), &bad.display().to_string()]);
    assert_eq!(code, 1);
    assert_eq!(seen["warnings"][0]["path"], "/credentials_v2/openai/endpoints");
    assert_eq!(seen["warnings"][0]["file"], good.display().to_string());
    assert_eq!(seen["errors"][0]["file"], bad.display().to_string());
    let (seen, code) = desk.json(&["check", "--json", &good.display().to_string()]);
    assert_eq!((code, &seen["errors"]), (0, &json!([])));
}

#[test]
fn check_reads_standard_input_and_shows_the_line_without_the_key() {
    let desk = Desk::new();
    let text = "{\n  \"network\": { \"allow\": [\"exa mple\"] },\n  \"credentials\": { \
                \"openai\": \"sk-CANARY\",\n    \"opnai\": \"sk-CANARY\" }\n}";
    let output = desk.run(&["check", "-"], Some(text));
    assert_eq!(output.status.code(), Some(1));
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("-:2: error:") && shown.contains("at /network/allow/0"), "{shown}");
    assert!(shown.contains("-:4: error:") && shown.contains("did you mean `openai`"), "{shown}");
    assert!(shown.contains("-: 2 errors"), "{shown}");
}

#[test]
fn check_tries_the_sources_of_keys_unless_told_not_to() {
    let desk = Desk::new();
    let empty = desk.file("empty", "\n").display().to_string();
    let full = desk.file("full", "sk-CANARY\n").display().to_string();
    let long = desk.file("long", &"k".repeat(8193)).display().to_string();
    let split = desk.file("split", "sk-CANARY and more\n").display().to_string();
    let pipe = desk.path("pipe");
    nix::unistd::mkfifo(Path::new(&pipe), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let text = |key: &str| format!(r#"{{"credentials_v2":{{"openai":{{"key":{key}}}}}}}"#);
    for (key, wrong) in [
        (r#"{"env":"INTERCEPTOR_TEST_KEY"}"#.to_owned(), Some("is not set")),
        (r#"{"env":"HOME"}"#.to_owned(), None),
        (r#"{"file":"/nonexistent/key"}"#.to_owned(), Some("does not exist")),
        (r#"{"file":"/"}"#.to_owned(), Some("cannot be read")),
        (format!(r#"{{"file":"{empty}"}}"#), Some("is empty")),
        (format!(r#"{{"file":"{long}"}}"#), Some("is longer than 8192 bytes")),
        (format!(r#"{{"file":"{split}"}}"#), Some("has a space")),
        (format!(r#"{{"file":"{pipe}"}}"#), Some("it is a named pipe")),
        (r#"{"file":"/dev/zero"}"#.to_owned(), Some("it is a device")),
        (format!(r#"{{"file":"{full}"}}"#), None),
    ] {
        let policy = desk.file("p.json", &text(&key)).display().to_string();
        let (seen, code) = desk.json(&["check", "--json", &policy]);
        match wrong {
            Some(says) => {
                assert_eq!(
                    (code, &seen["errors"][0]["path"]),
                    (1, &json!("/credentials_v2/openai/key")),
                    "{key}"
                );
                assert!(
                    seen["errors"][0]["message"].as_str().unwrap().contains(says),
                    "{key}: {seen}"
                );
            }
            None => assert_eq!((code, &seen["errors"]), (0, &json!([])), "{key}"),
        }
        let (_, code) = desk.json(&["check", "--json", "--skip-keys", &policy]);
        assert_eq!(code, 0, "{key}");
    }
}

#[test]
fn check_never_waits_and_rejects_documents_that_are_too_deep_or_too_large() {
    let desk = Desk::new();
    let pipe = desk.path("pipe");
    nix::unistd::mkfifo(Path::new(&pipe), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let deep =
        desk.file("deep.json", &format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000)));
    let huge = desk.path("huge.json");
    std::fs::File::create(&huge).unwrap().set_len(1 << 40).unwrap();
    let deep = deep.display().to_string();
    let files = [&pipe, "/dev/zero", "/dev", &deep, &huge];
    let says =
        ["named pipe", "a device", "Is a directory", "nests deeper", "more than 1048576 bytes"];
    let output = desk.run(&[&["check"][..], &files].concat(), None);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{shown}");
    for (file, says) in files.iter().zip(says) {
        let mut lines = shown.lines().filter(|line| line.starts_with(&format!("{file}: error")));
        assert!(lines.next().is_some_and(|line| line.contains(says)), "{file}: {shown}");
    }
    // A shell's process substitution is read, and so is a pipe on standard input.
    for policy in ["-", "/dev/stdin", "/dev/fd/0"] {
        assert_eq!(desk.run(&["check", policy], Some("{}")).status.code(), Some(0), "{policy}");
    }
}

#[test]
fn check_continues_after_an_unreadable_file() {
    let desk = Desk::new();
    let latin = desk.path("latin.json");
    std::fs::write(&latin, b"{\"image\": \"caf\xe9\"}").unwrap();
    let bad = desk.file("bad.json", "{\"a\":1}").display().to_string();
    let bom = desk.file("bom.json", "\u{feff}{}").display().to_string();
    let (seen, code) = desk.json(&["check", "--json", "/nonexistent.json", &latin, &bad, &bom]);
    let errors = seen["errors"].as_array().unwrap();
    let says = ["cannot read the file", "not UTF-8", "", "byte order mark"];
    assert_eq!((code, errors.len()), (1, says.len()), "{seen}");
    for ((error, file), says) in
        errors.iter().zip(["/nonexistent.json", &latin, &bad, &bom]).zip(says)
    {
        assert_eq!(error["file"], file);
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
    assert_eq!((&errors[0]["path"], &errors[2]["path"]), (&json!(""), &json!("/a")));
    assert_eq!(desk.run(&["check", "/nonexistent.json"], None).status.code(), Some(1));
}

#[test]
fn check_runs_no_program_whose_policy_is_not_trusted() {
    let desk = Desk::new();
    let ran = desk.path("ran");
    let script = format!("echo ran >> {ran}; echo sk-0123456789abcdef");
    let text = json!({ "credentials_v2": { "openai": {
        "key": { "exec": ["sh", "-c", script] }, "endpoints": [] } } });
    let policy = desk.file("p.json", &text.to_string()).display().to_string();
    for (file, remedy) in [
        (policy.as_str(), format!("; type: interceptor trust {policy} (--skip-keys leaves")),
        ("-", "; save it in a file, and trust that: interceptor trust FILE".to_owned()),
    ] {
        let output = desk.run(&["check", file], Some(&text.to_string()));
        let shown = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{shown}");
        let what = "the program \"sh\" is not run: the policy's content is not trusted yet";
        assert!(shown.contains(&format!("{what}{remedy}")), "{shown}");
        assert_eq!(desk.run(&["check", "--skip-keys", &policy], None).status.code(), Some(0));
        assert!(!Path::new(&ran).exists());
    }
    assert_eq!(desk.run(&["trust", &policy], None).status.code(), Some(0));
    assert!(!Path::new(&ran).exists());
    let output = desk.run(&["check", &policy], None);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(Path::new(&ran).exists());
}
