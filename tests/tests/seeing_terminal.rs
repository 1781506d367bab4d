//! Colours and widths at a real terminal, a pseudoterminal as terminal emulators make it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use interceptor_tests::lab::Lab;
use interceptor_tests::sandbox::binary;
use nix::pty::{OpenptyResult, Winsize, openpty};

const ESCAPE: char = '\u{1b}';

/// What a command shows at a terminal of 80 columns, and its exit status.
fn at_terminal(lab: &Lab, variables: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String) {
    typed_at_terminal(lab, variables, arguments, "")
}

/// The same where somebody types something.
fn typed_at_terminal(
    lab: &Lab,
    variables: &[(&str, &str)],
    arguments: &[&str],
    typed: &str,
) -> (Option<i32>, String) {
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let OpenptyResult { master, slave } = openpty(&size, None).expect("a pseudoterminal");
    let mut command = Command::new(binary("interceptor"));
    command.args(arguments).current_dir(lab.work()).env_clear();
    command.env("PATH", "/usr/bin:/bin").env("HOME", lab.work());
    command.env("XDG_STATE_HOME", lab.directory().join("state")).envs(variables.iter().copied());
    let end = || Stdio::from(slave.try_clone().expect("a descriptor"));
    command.stdin(end()).stdout(end()).stderr(end());
    let mut child = command.spawn().expect("the product starts");
    // The command holds the copies, and with the last one the terminal is closed.
    drop((command, slave));
    let (mut shown, mut master) = (Vec::new(), File::from(master));
    master.write_all(typed.as_bytes()).expect("a terminal keeps what is typed");
    let mut piece = [0; 4096];
    // A closed terminal is an error (EIO).
    while let Ok(length @ 1..) = master.read(&mut piece) {
        shown.extend_from_slice(&piece[..length]);
    }
    let status = child.wait().expect("the product ends").code();
    (status, String::from_utf8_lossy(&shown).replace("\r\n", "\n"))
}

/// A run that is refused a request, with what it says of itself.
fn refused_run(lab: &Lab, variables: &[(&str, &str)], options: &[&str]) -> String {
    let ask = "curl -s -o /dev/null \
               https://a-rather-long-name-of-a-host.example.test/v1/models/of/a/long/path; true";
    let start = ["run", "--user=nobody", "--allow=other.example.test", "--name=seen"];
    let arguments = [&start[..], options, &["--", "sh", "-c", ask]].concat();
    let (status, shown) = at_terminal(lab, variables, &arguments);
    assert_eq!(status, Some(0), "{shown}");
    shown
}

#[test]
fn colours_are_for_terminals_and_no_color_holds() {
    Lab::test(|lab| {
        let shown = refused_run(lab, &[("GH_TOKEN", "of-nobody")], &[]);
        assert!(shown.contains(&format!("{ESCAPE}[31m1 refused{ESCAPE}[0m")), "{shown:?}");
        for (value, coloured) in [("1", false), ("", true)] {
            let shown = refused_run(lab, &[("NO_COLOR", value)], &[]);
            assert_eq!(shown.contains(ESCAPE), coloured, "{shown:?}");
        }
        let quiet = refused_run(lab, &[], &["--summary=never"]);
        assert!(!quiet.contains("refused") && !quiet.contains(ESCAPE), "{quiet:?}");

        for (arguments, variables, coloured) in [
            (&["audit", "last"][..], &[][..], true),
            (&["audit", "last"], &[("NO_COLOR", "1")], false),
            (&["audit", "last", "--json"], &[], false),
            (&["why"], &[], false),
        ] {
            let (status, shown) = at_terminal(lab, variables, arguments);
            assert_eq!(status, Some(0), "{arguments:?}: {shown}");
            assert_eq!(shown.contains(ESCAPE), coloured, "{arguments:?}: {shown:?}");
        }
    });
}

#[test]
fn eighty_columns_hold_what_is_said() {
    Lab::test(|lab| {
        fs::create_dir_all(lab.work().join("deep")).unwrap();
        let mut shown = refused_run(lab, &[("GH_TOKEN", "x"), ("MY_API_KEY", "x")], &[]);
        shown.push_str(&at_terminal(lab, &[], &["why"]).1);
        shown.push_str(&at_terminal(lab, &[], &["run", "--user=nobody", "--", "true"]).1);
        let (_, help) = at_terminal(lab, &[("COLUMNS", "80")], &["run", "--help"]);
        assert!(help.contains("--policy"), "{help}");
        shown.push_str(&help);
        for line in shown.lines() {
            let plain = line.replace("\u{1b}[31m", "").replace("\u{1b}[32m", "");
            let plain = plain.replace("\u{1b}[0m", "");
            // A word that is longer than what is left of a line is not broken: it can be copied.
            let words = plain.split_whitespace().count();
            assert!(plain.chars().count() <= 80 || words <= 1, "{plain:?}\n{shown}");
        }
    });
}

#[test]
fn trust_is_given_only_for_what_was_shown_and_by_a_word() {
    Lab::test(|lab| {
        let policy = lab.work().join("interceptor.json");
        let hosts: Vec<String> = (0..200).map(|number| format!("h{number}.test")).collect();
        let text = serde_json::json!({ "network": { "allow": hosts }, "credentials_v2": { "own": {
            "key": { "file": "/k" }, "hosts": ["own.test"], "env": "OWN_API_KEY" } } });
        fs::write(&policy, text.to_string()).unwrap();
        let list = lab.directory().join("state/interceptor/trusted");
        for (typed, options, is_trusted) in [
            ("\n", &[][..], false),
            ("\u{4}", &[], false),
            ("no\n", &[], false),
            ("yes and no\n", &[], false),
            ("y\n", &["--full"], true),
            ("", &["--yes"], true),
        ] {
            let _ = fs::remove_file(&list);
            let arguments = [&["trust"], options].concat();
            let (status, shown) = typed_at_terminal(lab, &[], &arguments, typed);
            assert_eq!(status, Some(if is_trusted { 0 } else { 1 }), "{shown}");
            assert_eq!(list.exists(), is_trusted, "{typed:?} {options:?}: {shown}");
            let asks = shown.contains("Trust this policy? [y/N] ");
            assert_eq!(asks, options != ["--yes"], "{shown}");
            assert_eq!(shown.contains("trusted: "), is_trusted, "{shown}");
            // Keys come first, and what is left out is told.
            let key = shown.find("own: the key in the file /k").expect("it is shown");
            assert!(key < shown.find("hosts: h0.test").expect("it is shown"), "{shown}");
            let is_whole = shown.contains("h199.test");
            assert_eq!(is_whole, options == ["--full"], "{shown}");
            assert_eq!(is_whole, !shown.contains(" more characters)"), "{shown}");
        }
    });
}
