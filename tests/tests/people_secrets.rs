//! What stays hidden of a home, for every way to look at it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use std::process::{Command, Output};

use interceptor_tests::lab::Lab;
use interceptor_tests::people::{Account, out, text};
use interceptor_tests::sandbox::binary;

const SECRET: &str = "the-secret-of-this-test";

/// Prints every readable file below the directories given that holds the secret.
const SEARCH: &str = "grep -rl the-secret-of-this-test \"$@\" 2>/dev/null | sort; true";

/// The policy that permits any public host.
const OPEN: &str = "--profile=unrestricted";

/// `sudo interceptor run OPTIONS -- sh -c SCRIPT`, typed by the user in its home.
fn run(account: &Account, options: &[&str], script: &str) -> Output {
    run_in(account, ".", options, script)
}

fn run_in(account: &Account, directory: &str, options: &[&str], script: &str) -> Output {
    let interceptor = binary("interceptor");
    let before = ["sudo", interceptor.to_str().unwrap(), "run", OPEN];
    let words = [&[directory], &before[..], options, &["--", "sh", "-c", script]].concat();
    account.run("cd \"$1\"; shift; \"$@\"; exit $?", &words)
}

/// A home with secrets in places of every kind, and files that are none.
fn furnish(account: &Account) {
    for place in [
        ".ssh/id_ed25519",
        ".ssh/known_hosts",
        ".gnupg/private-keys-v1.d/key",
        ".aws/credentials",
        ".azure/token",
        ".config/gcloud/credentials.db",
        ".config/gh/hosts.yml",
        ".config/op/config",
        ".kube/config",
        ".docker/config.json",
        ".netrc",
        ".npmrc",
        ".pypirc",
        ".git-credentials",
        ".cargo/credentials.toml",
        ".mozilla/firefox/x.default/logins.json",
        ".config/chromium/Default/Cookies",
        ".password-store/mail.gpg",
        ".local/share/keyrings/login.keyring",
        ".bash_history",
        ".zsh_history",
        ".claude/.credentials.json",
        ".codex/auth.json",
        ".gemini/oauth_creds.json",
        ".local/state/interceptor/trusted",
        ".config/interceptor/policies/own.json",
    ] {
        account.file(place, SECRET);
    }
    for place in [".gitconfig", ".cargo/config.toml", ".claude/settings.json", "notes.txt"] {
        account.file(place, "no secret");
    }
}

#[test]
fn secrets_of_a_home_are_empty_inside_and_as_they_were_outside() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        furnish(&account);
        let found = run(&account, &[], &SEARCH.replace("\"$@\"", "~ /proc/self/root/$HOME"));
        assert_eq!(out(&found), "", "{}", text(&found.stderr));
        assert_eq!(text(&found.stderr), "");
        // Empty rather than an error, and what is written there is thrown away.
        let script = "set -e; ls -A ~/.ssh ~/.aws ~/.config/gcloud; cat ~/.netrc ~/.bash_history; \
                      cat ~/.claude/.credentials.json; cat ~/notes.txt ~/.cargo/config.toml; \
                      echo new > ~/.ssh/known_hosts; echo new > ~/.netrc; cat ~/.ssh/known_hosts \
                      ~/.netrc; stat -c %u:%a ~/.ssh ~/.netrc";
        let uid = account.uid();
        assert_eq!(
            out(&run(&account, &[], script)).replace("no secret", "-").replace('\n', " "),
            format!(
                "{0}/.aws: {0}/.config/gcloud: {0}/.ssh: --new new {uid}:700 {uid}:600 ",
                account.home().display()
            )
            .replace(".aws:", ".aws: ")
            .replace("gcloud:", "gcloud: "),
        );
        for place in [".ssh/known_hosts", ".netrc"] {
            assert_eq!(fs::read_to_string(account.home().join(place)).unwrap(), SECRET, "{place}");
        }
    });
}

#[test]
fn a_secret_is_hidden_whatever_the_way_to_it() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let home = account.home();
        furnish(&account);
        // Links to a hidden place, and hidden places that are links.
        symlink(".ssh", home.join("keys")).unwrap();
        account.file("dotfiles/azure/token", SECRET);
        account.file("dotfiles/netrc", SECRET);
        fs::remove_dir_all(home.join(".azure")).unwrap();
        fs::remove_file(home.join(".netrc")).unwrap();
        symlink("dotfiles/azure", home.join(".azure")).unwrap();
        symlink(home.join("dotfiles/netrc"), home.join(".netrc")).unwrap();
        // One that leads to the home itself takes nothing away.
        fs::remove_dir_all(home.join(".kube")).unwrap();
        symlink(home, home.join(".kube")).unwrap();
        // A home below a link, and one that is mounted twice.
        let (link, twice) = (lab.directory().join("homes"), lab.directory().join("twice"));
        symlink(lab.directory(), &link).unwrap();
        fs::create_dir(&twice).unwrap();
        let linked = link.join(account.name());
        let search = format!(
            "{}; cat ~/notes.txt",
            SEARCH.replace("\"$@\"", &format!("~/ {} {}/", twice.display(), linked.display()))
        );
        let interceptor = binary("interceptor");
        for set in [home, linked.as_path()] {
            let script = "mount --bind \"$1\" \"$2\" && cd \"$1\" && shift 2 && exec setpriv \
                          --reuid=$1 --regid=$1 --init-groups sh -c 'shift; \"$@\"; exit $?' sh \
                          \"$@\"";
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
            command.args([home, &twice]).arg(account.uid().to_string()).arg("sudo");
            command.arg(&interceptor).args(["run", OPEN, "--", "sh", "-c", &search]);
            command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", set);
            let output = command.output().unwrap();
            assert_eq!(out(&output), "no secret", "{}", text(&output.stderr));
            assert!(text(&output.stderr).contains("a link in the home leads to"));
        }
    });
}

#[test]
fn no_renaming_inside_moves_a_secret_out_of_its_place() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        furnish(&account);
        let script = "for place in .ssh .netrc .config .config/gh .docker .cargo .claude .local \
                      .local/share .local/state .mozilla; do \
                        mv ~/$place ~/moved-$(basename $place) 2>/dev/null && echo moved $place; \
                        python3 -c 'import os,sys; os.rename(sys.argv[1], sys.argv[1] + \".x\")' \
                          ~/$place 2>/dev/null && echo renamed $place; \
                      done; ln ~/.ssh/id_ed25519 ~/x 2>/dev/null; rm -rf ~/.ssh ~/.netrc \
                      2>/dev/null; true";
        for options in [&[][..], &["--nesting"]] {
            assert_eq!(out(&run(&account, options, script)), "", "{options:?}");
        }
        let found = run(&account, &["--nesting"], &SEARCH.replace("\"$@\"", "~"));
        assert_eq!(out(&found), "");
        assert_eq!(fs::read_to_string(account.home().join(".ssh/id_ed25519")).unwrap(), SECRET);
        // A cover cannot be taken off in a namespace of its own.
        let script = "unshare -rm sh -c 'umount ~/.ssh; umount ~/.netrc; umount -l ~/.config; \
                      grep -rl the-secret ~/.ssh ~/.netrc ~/.config' 2>/dev/null; true";
        assert_eq!(out(&run(&account, &["--nesting"], script)), "");
    });
}

#[test]
fn nothing_inside_makes_what_the_interceptor_keeps_for_its_user() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        let forge = "for place in .local/state .config; do \
                       mkdir -p ~/$place/interceptor/policies; \
                       echo forged > ~/$place/interceptor/trusted; \
                       echo forged > ~/$place/interceptor/policies/own.json; \
                       mv ~/$place ~/away-$(basename $place) && mkdir -p ~/$place/interceptor && \
                         echo forged > ~/$place/interceptor/trusted; \
                       rm -rf ~/$place; \
                     done 2>/dev/null; true";
        out(&run(&account, &[], forge));
        // Root without sudo, in this user's home.
        let mut root = Command::new(binary("interceptor"));
        root.args(["run", OPEN, "--", "sh", "-c", forge]).current_dir(account.home());
        out(&root.env_remove("SUDO_UID").output().unwrap());
        // What `mv` could not rename it may have copied: elsewhere, where nothing looks for it.
        let places = [".local", ".config"].map(|place| account.home().join(place));
        let found = Command::new("grep").args(["-rl", "forged"]).args(places).output();
        assert_eq!(text(&found.unwrap().stdout), "");
        for place in [".local/state/interceptor", ".config/interceptor"] {
            let status = fs::metadata(account.home().join(place)).unwrap();
            assert_eq!(status.permissions().mode() & 0o777, 0o700, "{place}");
        }
    });
}

#[test]
fn expose_shows_one_place_and_nothing_else() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        furnish(&account);
        let home = account.home();
        let seen = |options: &[&str]| {
            let output = run(&account, options, &SEARCH.replace("\"$@\"", "."));
            out(&output).lines().map(str::to_owned).collect::<BTreeSet<String>>()
        };
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let whole: BTreeSet<String> = set(&["./.ssh/id_ed25519", "./.ssh/known_hosts"]);
        let absolute = home.join(".ssh");
        for path in [absolute.to_str().unwrap(), ".ssh", "./notes/../.ssh/", "~/.ssh"] {
            assert_eq!(seen(&["--expose", path]), whole, "{path}");
        }
        assert_eq!(seen(&["--expose", ".ssh/known_hosts"]), set(&["./.ssh/known_hosts"]));
        let two = set(&["./.netrc", "./.config/gh/hosts.yml"]);
        assert_eq!(seen(&["--expose", ".netrc", "--expose", ".config/gh"]), two);
        let refused = [
            ("notes.txt", "this is not a hidden place"),
            (".", "this is not a hidden place"),
            ("/", "this is not a hidden place"),
            (".local/state/interceptor/trusted", "never shown"),
            (".config/interceptor", "never shown"),
        ];
        for (path, why) in refused {
            let output = run(&account, &["--expose", path], "true");
            let said = text(&output.stderr);
            assert!(output.status.code() == Some(125) && said.contains(why), "{path}: {said}");
        }
    });
}

#[test]
fn a_working_directory_in_a_hidden_place_is_empty_and_that_is_said() {
    Lab::test(|lab| {
        let account = Account::new(lab.directory());
        furnish(&account);
        account.file(".config/gh/deep/file", SECRET);
        let output = run_in(&account, ".config/gh/deep", &[], "pwd; ls -A");
        let here = account.home().join(".config/gh/deep");
        assert_eq!(out(&output), format!("{}\n", here.display()));
        let said = text(&output.stderr);
        assert!(said.contains("is hidden (logins of forges); `--expose"), "{said}");
        let shown = run_in(&account, ".config/gh/deep", &["--expose", ".."], "cat file");
        assert_eq!((out(&shown), text(&shown.stderr)), (SECRET.to_owned(), String::new()));
        // A cover does not hide a file's other names, and a warning says so.
        fs::hard_link(account.home().join(".netrc"), account.home().join("copy")).unwrap();
        let linked = run(&account, &[], "true");
        let said = text(&linked.stderr);
        assert!(said.contains(".netrc is hidden, but has other hard links"), "{said}");
    });
}
