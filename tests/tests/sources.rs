//! Keys that programs print: fetched again ahead of their end, after an origin refused them, and
//! not at all while the program fails.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use interceptor_tests::Lab;
use interceptor_tests::daemon::until;
use interceptor_tests::running::Running;
use serde_json::{Value, json};

const HOST: &str = "api.example.test";

/// What the program does: it prints the key of its first, second, … run, else the last one.
const PRINTS: &str = "#!/bin/sh
cd \"$(dirname \"$0\")\" && echo run >> runs && n=$(wc -l < runs) && \
     { [ ! -f key-$n ] || cp key-$n key; } && cat key
";

/// A program of root's, and what it prints.
struct Program {
    directory: PathBuf,
}

impl Program {
    fn new(lab: &Lab, script: &str) -> Program {
        let directory = lab.directory().join("programs");
        fs::create_dir_all(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        let program = Program { directory };
        fs::write(program.path(), script).unwrap();
        fs::set_permissions(program.path(), fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    fn path(&self) -> PathBuf {
        self.directory.join("token")
    }

    /// Has it print this from its run of this number on.
    fn prints(&self, run: usize, text: &str) {
        let next = self.directory.join("next");
        fs::write(&next, text).unwrap();
        fs::set_permissions(&next, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(next, self.directory.join(format!("key-{run}"))).unwrap();
    }

    fn runs(&self) -> usize {
        fs::read_to_string(self.directory.join("runs")).unwrap_or_default().lines().count()
    }

    fn policy(&self, ttl: u64) -> Value {
        policy(&json!({ "exec": [self.path()], "ttl_seconds": ttl }))
    }
}

fn policy(key: &Value) -> Value {
    json!({ "network": { "allow": [HOST] },
            "credentials_v2": { "lab": { "key": key, "hosts": [HOST], "env": "LAB_API_KEY" } } })
}

/// A client that asks for what each line of its standard input names, and tells the answer.
const ASK_EACH_LINE: &str = "n=0; while read line; do n=$((n+1)); \
     curl -sS -w '%{http_code}' https://HOST/$line; echo \" asked $n\"; done";

struct Client<'lab> {
    lab: &'lab Lab,
    running: Running<'lab>,
    asked: usize,
}

impl<'lab> Client<'lab> {
    fn start(lab: &'lab Lab, policy: &Value) -> Client<'lab> {
        let script = ASK_EACH_LINE.replace("HOST", HOST);
        let sandbox = lab.sandbox(policy).trusted().at_origin(HOST).open_stdin();
        Client { lab, running: sandbox.start(&["sh", "-c", &script]), asked: 0 }
    }

    /// Asks for a path; waits for the answer.
    fn ask(&mut self, path: &str) {
        self.asked += 1;
        self.running.write(format!("{path}\n").as_bytes());
        self.running.wait_for(&format!(" asked {}\n", self.asked));
    }

    /// Asks again and again, until an answer is as it should be.
    #[track_caller]
    fn ask_until(&mut self, path: &str, is_right: impl Fn(&Lab, usize) -> bool) {
        let late = Instant::now() + Duration::from_secs(120);
        loop {
            let before = self.lab.seen().len();
            self.ask(path);
            if is_right(self.lab, before) {
                return;
            }
            assert!(Instant::now() < late, "{path}: it does not come");
        }
    }

    /// The key of the last request that the origin got.
    fn key(&self) -> String {
        self.lab.seen().last().unwrap().values("authorization").join(",")
    }
}

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

#[test]
fn a_key_is_fetched_again_ahead_of_its_end_without_a_request() {
    Lab::test(|lab| {
        let (first, second) = (lab.key().to_owned(), lab.another_key());
        let program = Program::new(lab, PRINTS);
        program.prints(1, &format!("{first}\n"));
        let mut client = Client::start(lab, &program.policy(5));
        client.ask("v1/first");
        assert_eq!(client.key(), bearer(&first));
        // The whole of what OAuth servers answer; its end counts and not the policy's.
        let answer = json!({ "access_token": second, "token_type": "Bearer", "expires_in": 86400 });
        let next = program.runs() + 1;
        (next..next + 3).for_each(|run| program.prints(run, &answer.to_string()));
        assert!(until(|| program.runs() >= next), "{}", program.runs());
        // Once it is printed, the next request has it, but for the moment in between.
        client.ask_until("v1/second", |lab, _| {
            lab.seen().last().unwrap().values("authorization") == [bearer(&second)]
        });
        let runs = program.runs();
        client.ask("v1/third");
        assert_eq!((client.key(), program.runs()), (bearer(&second), runs));
        client.running.finish().success();
    });
}

#[test]
fn an_expired_key_is_refused_with_the_programs_error_until_it_prints_another() {
    Lab::test(|lab| {
        lab.unordered();
        let program = Program::new(lab, PRINTS);
        program.prints(1, lab.key());
        let mut client = Client::start(lab, &program.policy(4));
        client.ask("v1/good");
        assert_eq!(client.key(), bearer(lab.key()));
        fs::rename(program.directory.join("key"), program.directory.join("gone")).unwrap();
        let said = format!(
            "the key of credential `lab`, from the program {:?}, ended with status 1",
            program.path().display().to_string()
        );
        // The last good one serves until it expires.
        client.ask_until("v1/until", |lab, before| lab.seen().len() == before);
        fs::rename(program.directory.join("gone"), program.directory.join("key")).unwrap();
        client.ask_until("v1/again", |lab, before| lab.seen().len() > before);
        let outcome = client.running.finish();
        outcome.success();
        assert!(outcome.out().contains("\"credential_unavailable\""), "{}", outcome.out());
        assert!(outcome.out().contains(&said.replace('"', "\\\"")), "{}", outcome.out());
        assert!(outcome.out().contains("502 asked"), "{}", outcome.out());
        let records = outcome.requests("deny");
        assert!(!records.is_empty());
    });
}

#[test]
fn an_origin_that_refuses_the_key_gets_another_with_the_next_request_and_once() {
    Lab::test(|lab| {
        let (first, second) = (lab.key().to_owned(), lab.another_key());
        let program = Program::new(lab, PRINTS);
        program.prints(1, &first);
        program.prints(2, &second);
        program.prints(3, &lab.another_key());
        let mut client = Client::start(lab, &program.policy(86_400));
        client.ask("v1/first");
        assert_eq!((client.key(), program.runs()), (bearer(&first), 1));
        let refused = Instant::now();
        client.ask("status/401");
        client.ask_until("v1/second", |lab, _| {
            lab.seen().last().unwrap().values("authorization") == [bearer(&second)]
        });
        assert_eq!(program.runs(), 2);
        // A sandbox can provoke such answers as it likes.
        for path in ["status/403", "status/401", "v1/third"] {
            client.ask(path);
        }
        // Later, another refusal counts again.
        if refused.elapsed() < Duration::from_secs(25) {
            assert_eq!((client.key(), program.runs()), (bearer(&second), 2));
        }
        client.running.finish().success();
    });
}

#[test]
fn a_program_that_fails_is_named_with_its_error_and_never_with_what_it_said() {
    Lab::test(|lab| {
        let key = lab.another_key();
        let mut expired = json!({ "kind": "ExecCredential" });
        expired["status"] = json!({ "token": key, "expirationTimestamp": "2020-01-01T00:00:00Z" });
        let table = [
            (format!("echo {key} >&2; echo {key}; exit 3"), "ended with status 3"),
            (format!("echo {key}; kill -9 $$"), "was killed by signal 9"),
            (format!("exec yes {key}"), "printed more than 64 KiB"),
            (format!("echo '{expired}'"), "gave a key that has expired"),
            (format!("echo '{{\"Secret\": \"{key}\"}}'"), "printed JSON in which no key is"),
            (format!("echo {key} {key}"), "gave what is no key: it has a space"),
            ("true".to_owned(), "gave what is no key: it is empty"),
            (
                format!("echo {key}; sleep 600 & echo $! > HERE/pid; sleep 600"),
                "did not end within 9 s",
            ),
        ];
        let here = lab.directory().join("programs");
        for (script, said) in table {
            let script = script.replace("HERE", here.to_str().unwrap());
            let program = Program::new(lab, &format!("#!/bin/sh\n{script}\n"));
            let patience = if said.starts_with("did not end") { 9 } else { 60 };
            let key = json!({ "exec": [program.path()], "timeout_seconds": patience });
            let policy = policy(&key);
            let sandbox = lab.sandbox(&policy).trusted().bare();
            let outcome = sandbox.at_origin(HOST).run(&["true"]);
            assert_eq!(outcome.code(), Some(125), "{script}: {}", outcome.err());
            let (path, err) = (program.path(), outcome.err());
            let said = format!("the program {:?} {said}", path.display().to_string());
            assert!(err.contains(&said) && err.contains("/credentials_v2/lab/key"), "{err}");
        }
        // What it started is gone with it.
        let started = fs::read_to_string(here.join("pid")).unwrap();
        let process = Path::new("/proc").join(started.trim());
        assert!(until(|| !process.exists()), "{process:?}");
        for (name, said) in [
            ("/no/such/program", "could not be started: "),
            ("no-such-program-anywhere", "was not found in PATH"),
        ] {
            let policy = policy(&json!({ "exec": [name] }));
            let sandbox = lab.sandbox(&policy).trusted().bare();
            let outcome = sandbox.at_origin(HOST).run(&["true"]);
            assert_eq!(outcome.code(), Some(125));
            assert!(outcome.err().contains(&format!("{name:?} {said}")), "{}", outcome.err());
        }
        // What it says beside its key is dropped, however much that is.
        let script = format!("#!/bin/sh\nhead -c 5000000 /dev/zero >&2\necho {}\n", lab.key());
        let program = Program::new(lab, &script);
        let fetch = format!("curl -sSf https://{HOST}/v1/x");
        let sandbox = lab.sandbox(&program.policy(300)).trusted();
        sandbox.at_origin(HOST).shell(&fetch).success();
        assert_eq!(lab.seen()[0].values("authorization"), [bearer(lab.key())]);
    });
}
