//! What bash, zsh and fish complete, each as it is when somebody presses the tabulator.

use std::fs;
use std::path::Path;

use interceptor_tests::Lab;
use interceptor_tests::conversing::{Conversing, typed};
use interceptor_tests::people::{Account, text};
use interceptor_tests::sandbox::binary;

/// Types a line and a tabulator into a shell at a terminal, and prints what is shown until all that
/// is expected was: `python3 PRESS SHELL SETUP LINE EXPECTED…`.
const PRESS: &str = r#"import os, pty, select, sys, time
shell, setup, line, *expected = sys.argv[1:]
options = {'bash': ['--norc', '--noprofile', '-i'], 'zsh': ['-f', '-i']}[shell]
pid, terminal = pty.fork()
if pid == 0: os.execvp(shell, [shell, *options])
shown, late = '', time.monotonic() + 60
def until(done):
    global shown
    while not done(shown):
        if time.monotonic() > late: print('TOO LATE', shown); raise SystemExit(1)
        if select.select([terminal], [], [], 1)[0]:
            try: shown += os.read(terminal, 65536).decode(errors='replace')
            except OSError: print('ENDED', shown); raise SystemExit(1)
# The prompt is put together so that the echo of this line is none.
os.write(terminal, f". {setup}; PS1=REA''DY\n".encode())
until(lambda shown: 'READY' in shown)
shown = ''
os.write(terminal, line.encode() + b'\t')
until(lambda shown: all(word in shown for word in expected))
print(shown)
os.close(terminal)
"#;

struct Desk<'lab> {
    account: Account,
    lab: &'lab Lab,
}

impl Desk<'_> {
    /// A file with the product's completions for a shell, and what the test wants of the shell.
    fn setup(&self, shell: &str, before: &str, after: &str) -> String {
        let (status, script) = typed(&self.account, "true", &["completions", shell]);
        assert_eq!(status, Some(0), "{script}");
        let path =
            self.account.file(&format!("setup.{shell}"), &format!("{before}\n{script}\n{after}\n"));
        path.to_str().unwrap().to_owned()
    }

    /// Runs a script of the person's, with the product on PATH.
    fn run(&self, script: &str, words: &[&str]) -> (bool, String) {
        let binary = binary("interceptor");
        let directory = binary.parent().unwrap().display();
        let script = format!("PATH={directory}:$PATH; export PATH; {script}; exit $?");
        let output = self.account.run(&script, words);
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    }

    /// Presses the tabulator behind a line, and waits until all of these are shown.
    #[track_caller]
    fn press(&self, shell: &str, setup: &str, line: &str, expected: &[&str]) -> String {
        let press = self.lab.directory().join("press.py");
        if !press.exists() {
            fs::write(&press, PRESS).unwrap();
        }
        let mut words = vec![press.to_str().unwrap(), shell, setup, line];
        words.extend(expected);
        let (is_done, shown) = self.run("python3 \"$@\"", &words);
        assert!(is_done, "{shell}: {line}: {expected:?} in {shown}");
        shown
    }
}

/// A person with policies, and a run of theirs.
fn test(shell: &str, body: impl FnOnce(&Desk<'_>, &dyn Fn(&str, &[&str]) -> String, &str)) {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        account.file(".config/interceptor/policies/review.jsonc", "{}");
        account.file("policy.json", "{}");
        account.file("notes.txt", "");
        account.directory(Path::new("deep"));
        let name = account.name().to_owned();
        let said = lab.directory().join("said");
        let options = ["--profile=unrestricted", "--name", &name];
        let run = Conversing::start(&account, "true", &options, &said);
        let desk = Desk { account, lab };
        let setup = match shell {
            "bash" => desk.setup(
                shell,
                ". /usr/share/bash-completion/bash_completion; complete -W 'alpha beta' mytool
                 bind 'set show-all-if-ambiguous on'; bind 'set page-completions off'
                 bind 'set completion-query-items 0'; bind 'set bell-style none'",
                "",
            ),
            "zsh" => desk.setup(
                shell,
                "autoload -Uz compinit; compinit -u -D; LISTMAX=1000; unsetopt LIST_BEEP
                 function _mytool() { compadd alpha beta }; compdef _mytool mytool",
                "",
            ),
            _ => desk.setup(shell, "complete -c mytool -x -a 'alpha beta'", ""),
        };
        let press = |line: &str, expected: &[&str]| match shell {
            "fish" => {
                // What the tabulator shows, as fish itself tells it.
                let script = format!("source {setup}; complete --do-complete '{line}'");
                let (_, shown) = desk.run("fish --no-config -c \"$1\"", &[&script]);
                for word in expected {
                    assert!(shown.contains(word), "{line}: {word} in {shown}");
                }
                shown
            }
            _ => desk.press(shell, &setup, line, expected),
        };
        body(&desk, &press, &name);
        run.end();
    });
}

fn completes(shell: &str) {
    test(shell, |_, press, name| {
        press("interceptor ", &["run", "ctl", "doctor", "completions"]);
        press("interceptor run --profile ", &["unrestricted", "openai"]);
        press("interceptor run --key ", &["anthropic", "github"]);
        press("interceptor run --agent ", &["claude-code", "codex"]);
        press("interceptor services g", &["github", "google"]);
        let policies = press("interceptor run --policy ", &["review", "policy.json", "deep"]);
        assert!(!policies.contains("notes.txt"), "{policies}");
        // There is one, which is completed at once.
        press("interceptor ctl policy get ", &[name]);
        press("interceptor audit tail --sandbox ", &[name]);
        // Another command's words are its own.
        let after = press("interceptor run --policy review -- mytool ", &["alpha", "beta"]);
        assert!(!after.contains("--profile"), "{after}");
        press("interceptor run --policy review -- interceptor ct", &["ctl"]);
    });
}

#[test]
fn bash_completes_names_and_the_command_that_is_run() {
    completes("bash");
}

#[test]
fn zsh_completes_names_and_the_command_that_is_run() {
    completes("zsh");
}

#[test]
fn fish_completes_names_and_the_command_that_is_run() {
    completes("fish");
}

#[test]
fn a_file_that_zsh_loads_by_itself_completes_at_once() {
    test("zsh", |desk, _, _| {
        let functions = desk.account.directory(Path::new("functions"));
        let (_, script) = typed(&desk.account, "true", &["completions", "zsh"]);
        desk.account.file("functions/_interceptor", &script);
        let setup = desk.account.file(
            "loads.zsh",
            &format!(
                "fpath=({} $fpath); autoload -Uz compinit; compinit -u -D",
                functions.display()
            ),
        );
        desk.press("zsh", setup.to_str().unwrap(), "interceptor run --agent ", &["claude-code"]);
    });
}

#[test]
fn without_bash_completion_the_command_that_is_run_is_completed_too() {
    test("bash", |desk, _, _| {
        let (_, script) = typed(&desk.account, "true", &["completions", "bash"]);
        let options = "bind 'set show-all-if-ambiguous on'; bind 'set bell-style none'";
        let setup = desk.account.file("plain.bash", &format!("{script}\n{options}\n"));
        let setup = setup.to_str().unwrap();
        desk.press("bash", setup, "interceptor run -- setpri", &["setpriv"]);
        desk.press("bash", setup, "interceptor run -- cat pol", &["policy.json"]);
    });
}

#[test]
fn no_name_that_bash_would_run_is_completed() {
    test("bash", |desk, _, _| {
        for name in ["even.json", "ev$(touch made).json", "ev`touch made`.json", "ev; touch.json"] {
            desk.account.file(name, "{}");
        }
        let script = "cd; . ./setup.bash 2> /dev/null
            COMP_WORDS=(interceptor check ev); COMP_CWORD=2
            _interceptor interceptor ev check; printf '%s.\\n' \"${COMPREPLY[@]}\"";
        let (_, shown) = desk.run("bash -c \"$1\"", &[script]);
        assert_eq!(shown, "even.json.\n");
    });
}
