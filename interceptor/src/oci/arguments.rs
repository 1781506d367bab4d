//! The arguments of an OCI runtime, as runc and crun read them.
//!
//! Whatever we read differently from the runtime would be a way around the enforcement. So options
//! that stand where they matter are known exactly, and any other is refused: abbreviations, which
//! crun accepts, and options of a later version.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::OciError;

/// The options that one part of the arguments may have: those without a value, and those with one.
struct Grammar {
    flags: &'static [&'static str],
    valued: &'static [&'static str],
    /// Whether options may follow what is not an option.
    anywhere: bool,
}

const GLOBAL: Grammar = Grammar {
    flags: &["--debug", "--systemd-cgroup"],
    valued: &[
        "--cgroup-manager",
        "--criu",
        "--log",
        "--log-format",
        "--log-level",
        "--root",
        "--rootless",
    ],
    anywhere: false,
};
/// Not crun's `--config`: it names another configuration than the bundle's.
const CREATE: Grammar = Grammar {
    flags: &["--detach", "-d", "--keep", "--no-new-keyring", "--no-pivot", "--no-subreaper"],
    valued: &[
        "--bundle",
        "-b",
        "--console-socket",
        "--pid-file",
        "--pidfd-socket",
        "--preserve-fds",
    ],
    anywhere: true,
};
const START: Grammar = Grammar { flags: &[], valued: &[], anywhere: true };
const EXEC: Grammar = Grammar {
    flags: &["--detach", "-d", "--ignore-paused", "--no-new-privs", "--tty", "-t"],
    valued: &[
        "--additional-gids",
        "-g",
        "--apparmor",
        "--cap",
        "-c",
        "--cgroup",
        "--console-socket",
        "--cwd",
        "--env",
        "-e",
        "--pid-file",
        "--pidfd-socket",
        "--preserve-fds",
        "--process",
        "-p",
        "--process-label",
        "--user",
        "-u",
    ],
    anywhere: false,
};

/// What a runtime is called for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// `create`, or `run`, which also starts it.
    Create {
        /// The bundle; the working directory if none is named.
        bundle: Option<PathBuf>,
    },
    /// `start`.
    Start {
        /// The container's id.
        id: OsString,
    },
    /// `exec`.
    Exec {
        /// The container's id.
        id: OsString,
        /// The file that describes the process.
        process: Option<PathBuf>,
        /// Added capabilities.
        capabilities: Vec<String>,
    },
    /// `restore`, which starts what an earlier enforcement knew.
    Restore,
    /// `delete`.
    Delete,
    /// Anything else, which starts no process.
    Other,
}

/// The arguments of a runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invocation {
    /// The options before the command.
    pub(crate) globals: Vec<OsString>,
    /// What it is called for.
    pub(crate) action: Action,
}

/// Reads the arguments of a runtime.
///
/// # Errors
/// If it is not certain what the runtime would do.
pub(crate) fn parse(arguments: &[OsString]) -> Result<Invocation, OciError> {
    // These print something, wherever they stand before the command.
    let prints =
        |word: &OsString| ["--help", "-h", "-?", "--version", "-v"].iter().any(|p| word == p);
    let mut global = Reader::new(&GLOBAL, arguments);
    let command = loop {
        match global.at().filter(|word| prints(word)) {
            Some(_) => return Ok(other(arguments)),
            None => match global.next()? {
                Some(Word::Option(..)) => {}
                Some(Word::Plain(command)) => break command.to_owned(),
                None => return Ok(other(arguments)),
            },
        }
    };
    let rest = &arguments[global.at..];
    let globals = arguments[..global.at - 1].to_vec();
    let action = match command.to_str() {
        Some("create" | "run") => create(rest)?,
        Some("start") => Action::Start { id: only(rest)? },
        Some("exec") => exec(rest)?,
        Some("restore") => Action::Restore,
        Some("delete") => Action::Delete,
        _ => Action::Other,
    };
    Ok(Invocation { globals, action })
}

fn other(arguments: &[OsString]) -> Invocation {
    Invocation { globals: arguments.to_vec(), action: Action::Other }
}

fn create(arguments: &[OsString]) -> Result<Action, OciError> {
    let mut reader = Reader::new(&CREATE, arguments);
    let (mut bundle, mut plain) = (None, 0);
    while let Some(word) = reader.next()? {
        match word {
            Word::Option("--bundle" | "-b", Some(value)) => once(&mut bundle, value, "--bundle")?,
            Word::Option(..) => {}
            Word::Plain(_) => plain += 1,
        }
    }
    if plain != 1 {
        return Err(refused("the runtime needs exactly one container id".into()));
    }
    Ok(Action::Create { bundle: bundle.map(PathBuf::from) })
}

fn only(arguments: &[OsString]) -> Result<OsString, OciError> {
    let mut reader = Reader::new(&START, arguments);
    let mut id = None;
    while let Some(word) = reader.next()? {
        if let Word::Plain(word) = word {
            once(&mut id, word.to_owned(), "the container id")?;
        }
    }
    id.ok_or_else(|| refused("the runtime needs a container id".into()))
}

fn exec(arguments: &[OsString]) -> Result<Action, OciError> {
    let mut reader = Reader::new(&EXEC, arguments);
    let (mut process, mut capabilities) = (None, Vec::new());
    loop {
        match reader.next()? {
            Some(Word::Option("--process" | "-p", Some(value))) => {
                once(&mut process, value, "--process")?;
            }
            Some(Word::Option("--cap" | "-c", Some(value))) => {
                capabilities.push(value.to_string_lossy().into_owned());
            }
            Some(Word::Option(..)) => {}
            Some(Word::Plain(id)) => {
                let (id, process) = (id.to_owned(), process.map(PathBuf::from));
                return Ok(Action::Exec { id, process, capabilities });
            }
            None => return Err(refused("the runtime needs a container id".into())),
        }
    }
}

/// The runtime's log, in which engines look for the reason of a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuntimeLog {
    /// Its file.
    pub(crate) file: PathBuf,
    /// Whether its lines are JSON objects.
    pub(crate) json: bool,
}

impl RuntimeLog {
    /// As the arguments say, however little of them is understood.
    pub(crate) fn of(arguments: &[OsString]) -> Option<Self> {
        let value = |name: &str| {
            let at = arguments.iter().position(|word| {
                word.as_bytes() == name.as_bytes()
                    || word
                        .as_bytes()
                        .strip_prefix(name.as_bytes())
                        .is_some_and(|r| r.starts_with(b"="))
            })?;
            match arguments[at].as_bytes().strip_prefix(name.as_bytes()) {
                Some([b'=', value @ ..]) => Some(OsString::from_vec(value.to_vec())),
                _ => arguments.get(at + 1).cloned(),
            }
        };
        let file = value("--log")?;
        // crun also logs to syslog and the journal, and marks files as such.
        let file = match file.to_str() {
            Some(text) if text.starts_with("syslog:") || text.starts_with("journald:") => {
                return None;
            }
            Some(text) => text.strip_prefix("file:").unwrap_or(text).into(),
            None => file,
        };
        let json = value("--log-format").is_some_and(|format| format == "json");
        Some(RuntimeLog { file: file.into(), json })
    }
}

fn once(place: &mut Option<OsString>, value: OsString, what: &str) -> Result<(), OciError> {
    match place.replace(value) {
        Some(_) => Err(refused(format!("the runtime's arguments name {what} twice"))),
        None => Ok(()),
    }
}

fn refused(why: String) -> OciError {
    OciError::Refused(why)
}

/// One word of the arguments, an option with its value.
enum Word<'a> {
    Option(&'static str, Option<OsString>),
    Plain(&'a OsStr),
}

struct Reader<'a> {
    grammar: &'static Grammar,
    words: &'a [OsString],
    at: usize,
    /// What follows is no option.
    plain: bool,
}

impl<'a> Reader<'a> {
    fn new(grammar: &'static Grammar, words: &'a [OsString]) -> Self {
        Reader { grammar, words, at: 0, plain: false }
    }

    fn at(&self) -> Option<&'a OsString> {
        self.words.get(self.at)
    }

    fn next(&mut self) -> Result<Option<Word<'a>>, OciError> {
        let Some(word) = self.at() else { return Ok(None) };
        self.at += 1;
        if word == "--" && !self.plain {
            self.plain = true;
            return self.next();
        }
        if self.plain || !word.as_bytes().starts_with(b"-") || word == "-" {
            self.plain = self.plain || !self.grammar.anywhere;
            return Ok(Some(Word::Plain(word)));
        }
        let bytes = word.as_bytes();
        let (name, attached) =
            match memchr::memchr(b'=', bytes).filter(|_| bytes.starts_with(b"--")) {
                Some(end) => (&bytes[..end], Some(OsString::from_vec(bytes[end + 1..].to_vec()))),
                None => (bytes, None),
            };
        let find = |among: &'static [&'static str]| {
            among.iter().copied().find(|known| known.as_bytes() == name)
        };
        if let Some(known) = find(self.grammar.flags) {
            return Ok(Some(Word::Option(known, attached)));
        }
        let Some(known) = find(self.grammar.valued) else {
            return Err(refused(format!(
                "the runtime's option {} is not known, so what it would start is not certain",
                word.to_string_lossy().escape_debug()
            )));
        };
        let value = match attached {
            Some(value) => value,
            None => {
                let value = self.at().ok_or_else(|| refused(format!("{known} needs a value")))?;
                self.at += 1;
                value.clone()
            }
        };
        Ok(Some(Word::Option(known, Some(value))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect()
    }

    fn action(text: &str) -> Action {
        parse(&words(text)).unwrap().action
    }

    fn created(bundle: &str) -> Action {
        Action::Create { bundle: Some(bundle.into()) }
    }

    #[test]
    fn the_engines_calls_are_understood() {
        // containerd's shim, Docker's too; conmon of Podman and CRI-O; a person.
        let shim = "--root /r --log /b/log.json --log-format json create --bundle /b --pid-file \
                    /b/init.pid c1";
        assert_eq!(action(shim), created("/b"));
        assert_eq!(parse(&words(shim)).unwrap().globals, words(shim)[..6]);
        let conmon = "--log-format=json --log=/l create --bundle /u --pid-file /p c1";
        assert_eq!(action(conmon), created("/u"));
        assert_eq!(action("run c1"), Action::Create { bundle: None });
        assert_eq!(action("run -d c1 -b /late"), created("/late"));
        assert_eq!(action("create --bundle=/x -- -odd"), created("/x"));
        assert_eq!(action("--debug start c1"), Action::Start { id: "c1".into() });
        let exec = "exec --process /tmp/p --detach --pid-file /x c1";
        let process = |process: Option<&str>, capabilities: &[&str]| Action::Exec {
            id: "c1".into(),
            process: process.map(PathBuf::from),
            capabilities: capabilities.iter().map(|&name| name.to_owned()).collect(),
        };
        assert_eq!(action(exec), process(Some("/tmp/p"), &[]));
        assert_eq!(action("exec -t --cap CAP_BPF c1 ls --process x"), process(None, &["CAP_BPF"]));
        for other in [
            "",
            "--version",
            "--root /r -v",
            "--help",
            "kill c1 9",
            "state c1",
            "features",
            "--root create list",
            "checkpoint --image-path x c1",
        ] {
            assert_eq!(action(other), Action::Other, "{other}");
        }
        assert_eq!(action("restore c1"), Action::Restore);
        assert_eq!(action("--root /r delete --force c1"), Action::Delete);
    }

    #[test]
    fn what_a_runtime_might_read_otherwise_is_refused() {
        for odd in [
            "create --config /other c1",
            "create -f /other c1",
            "create --conf=/other c1",
            "create -bundle /b c1",
            "create -b/b c1",
            "create --bundle /a --bundle /b c1",
            "create",
            "create c1 c2",
            "create --bundle",
            "--unknown create c1",
            "--roo /r create c1",
            "-root /r create c1",
            "exec",
            "exec --proc /p c1",
            "exec -tp /p c1",
            "exec -p /a --process /b c1",
            "start",
            "start a b",
            "run --later c1",
        ] {
            assert!(parse(&words(odd)).is_err(), "{odd}");
        }
    }

    #[test]
    fn the_runtimes_log_is_found_also_in_what_is_refused() {
        let log = |text: &str| RuntimeLog::of(&words(text));
        let json = RuntimeLog { file: "/l".into(), json: true };
        assert_eq!(log("--log /l --log-format json create --odd x"), Some(json.clone()));
        assert_eq!(log("--log=file:/l --log-format=json x"), Some(json.clone()));
        assert_eq!(log("--log /l create x"), Some(RuntimeLog { json: false, ..json }));
        for none in ["create x", "--log-format json", "--log", "--log syslog:x", "--log=journald:x"]
        {
            assert_eq!(log(none), None, "{none}");
        }
    }
}
