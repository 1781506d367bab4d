//! Users of this machine, for tests of what people type. Each is removed with its value.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sandbox::binary;

/// Output as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The standard output of a command that succeeded.
///
/// # Panics
/// If it failed, with all that it said.
#[track_caller]
pub fn out(output: &Output) -> String {
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Held while the user database changes: its tools do not wait for each other.
static DATABASE: Mutex<()> = Mutex::new(());

/// A user with a home, who may call sudo without a password.
#[derive(Debug)]
pub struct Account {
    name: String,
    group: String,
    home: PathBuf,
    uid: u32,
    gid: u32,
}

impl Account {
    /// Makes a user whose home is below `place`, with a supplementary group of its own.
    ///
    /// # Panics
    /// If useradd or groupadd fail.
    #[track_caller]
    pub fn new(place: &Path) -> Account {
        static ACCOUNTS: AtomicUsize = AtomicUsize::new(0);
        let number = ACCOUNTS.fetch_add(1, Ordering::SeqCst);
        let name = format!("lab{}u{number}", std::process::id());
        let home = place.join(&name);
        let mut account = Account { group: format!("{name}g"), name, home, uid: 0, gid: 0 };
        {
            let _changing = database();
            run("groupadd", &[&account.group]);
            let home = account.home.to_str().expect("a plain path");
            let options =
                ["-M", "-U", "-s", "/bin/sh", "-d", home, "-G", &account.group, &account.name];
            run("useradd", &options);
        }
        account.uid = account.id(&["-u"]).parse().expect("a number");
        account.gid = account.id(&["-g"]).parse().expect("a number");
        account.directory(Path::new(""));
        let rule = account.rule();
        fs::write(&rule, format!("{} ALL=(ALL) NOPASSWD: ALL\n", account.name)).expect("a rule");
        fs::set_permissions(&rule, fs::Permissions::from_mode(0o440)).expect("a rule");
        account
    }

    fn rule(&self) -> PathBuf {
        Path::new("/etc/sudoers.d").join(&self.name)
    }

    fn id(&self, options: &[&str]) -> String {
        let output = Command::new("id").args(options).arg(&self.name).output().expect("id");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    /// The login name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the supplementary group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The group id.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// The user id.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The home directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The ids of all groups, sorted.
    pub fn groups(&self) -> Vec<u32> {
        let list = self.id(&["-G"]);
        let mut groups: Vec<u32> =
            list.split_whitespace().map(|group| group.parse().expect("a number")).collect();
        groups.sort_unstable();
        groups
    }

    /// Makes the user a member of another user's supplementary group too.
    #[track_caller]
    pub fn join(&self, other: &Account) {
        let _changing = database();
        run("usermod", &["-aG", &other.group, &self.name]);
    }

    /// Makes a directory of the user's, and those above it, below the home.
    pub fn directory(&self, below: &Path) -> PathBuf {
        let path = self.home.join(below);
        fs::create_dir_all(&path).expect("a directory");
        for part in path.ancestors().take_while(|part| part.starts_with(&self.home)) {
            chown(part, Some(self.uid), Some(self.gid)).expect("a directory");
        }
        path
    }

    /// Makes a file of the user's below the home.
    pub fn file(&self, below: &str, content: &str) -> PathBuf {
        let path = self.home.join(below);
        self.directory(Path::new(below).parent().expect("a name"));
        fs::write(&path, content).expect("a file");
        chown(&path, Some(self.uid), Some(self.gid)).expect("a file");
        path
    }

    /// A shell of the user's in its home, with these words as `$1` and so on. Its environment is
    /// that of a login.
    pub fn shell(&self, script: &str, words: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.arg(format!("--reuid={}", self.uid)).arg(format!("--regid={}", self.gid));
        command.args(["--init-groups", "sh", "-c", script, "sh"]).args(words);
        command.env_clear().current_dir(&self.home).stdin(Stdio::null());
        command.env("HOME", &self.home).env("USER", &self.name).env("LOGNAME", &self.name);
        command.env("SHELL", "/bin/sh").env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/games");
        command.env("LANG", "C.UTF-8").env("TERM", "xterm");
        command
    }

    /// Runs a script as [`Account::shell`] to its end.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn run(&self, script: &str, words: &[&str]) -> Output {
        self.shell(script, words).output().expect("setpriv and sh")
    }

    /// What a line does that the user types, in which `$I` is the program: its status, standard
    /// output and standard error.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn typed(&self, line: &str) -> (Option<i32>, String, String) {
        let program = binary("interceptor");
        let program = program.to_str().expect("built below the repository");
        let output = self.run("I=$1 && eval \"$2\"; exit $?", &[program, line]);
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let _changing = database();
        let _ = fs::remove_file(self.rule());
        // A failure to tidy up must not hide why a test failed.
        for (tool, name) in [("userdel", &self.name), ("groupdel", &self.group)] {
            let _ = Command::new(tool).arg("-f").arg(name).stderr(Stdio::null()).status();
        }
    }
}

/// A policy of the operator's, removed with its value, and the directories with the last one.
#[derive(Debug)]
pub struct Operators(PathBuf);

/// How many policies of the operator's there are, and the directories that they made necessary.
static MADE: Mutex<(usize, Vec<&Path>)> = Mutex::new((0, Vec::new()));

impl Operators {
    /// Makes the policy of this name.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn new(name: &str, policy: &str) -> Operators {
        let [above, directory] = ["/etc/interceptor", "/etc/interceptor/policies"].map(Path::new);
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        made.1.extend([directory, above].into_iter().filter(|path| !path.exists()));
        made.0 += 1;
        fs::DirBuilder::new().recursive(true).mode(0o755).create(above).expect("a directory");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).expect("a directory");
        let path = directory.join(format!("{name}.json"));
        fs::write(&path, policy).expect("a policy");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a policy");
        Operators(path)
    }
}

impl Drop for Operators {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        made.0 -= 1;
        if made.0 == 0 {
            for path in made.1.drain(..) {
                let _ = fs::remove_dir(path);
            }
        }
    }
}

/// Keeps this process's other tests from changing the user database: the tools that do lock files
/// beside it, which a view of `/etc` shows too.
pub fn database() -> MutexGuard<'static, ()> {
    DATABASE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[track_caller]
fn run(tool: &str, arguments: &[&str]) {
    let output = Command::new(tool).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{tool}: {error}"));
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
}
