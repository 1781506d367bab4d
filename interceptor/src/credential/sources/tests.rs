mod former;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use interceptor_policy::{ExecSource, Prints};
use zeroize::Zeroizing;

use super::super::keyring::Keyring;
use super::super::source::Means;
use super::printed::read;
use super::*;

const NOW: &str = "2026-01-02T03:04:05Z";

fn source(program: &str, ttl: Duration) -> ExecSource {
    let timeout = Duration::from_secs(30);
    let argv = vec![program.to_owned(), "--secret-argument".to_owned()];
    ExecSource { argv, timeout, ttl, prints: Prints::Key }
}

fn printed(text: &str) -> Result<(String, u64), SourceProblem> {
    let source = source("p", Duration::from_secs(300));
    let read = read(Zeroizing::new(text.as_bytes().to_vec()), &source, NOW.parse().unwrap())?;
    Ok((read.key.expose().to_owned(), read.life.as_secs()))
}

#[test]
fn every_form_gives_its_key_and_its_life() {
    let table = [
        ("sk-plain-key\n", "sk-plain-key", 300),
        (
            r#"{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1",
                "status":{"token":"k8s-token","expirationTimestamp":"2026-01-02T03:14:05Z"}}"#,
            "k8s-token",
            600,
        ),
        (r#"{"kind":"ExecCredential","status":{"token":"k8s-token"}}"#, "k8s-token", 300),
        (
            r#"{"Version":1,"AccessKeyId":"AKIAX","SecretAccessKey":"aws/secret",
                "SessionToken":"session","Expiration":"2026-01-02T04:04:05Z"}"#,
            "aws/secret",
            3600,
        ),
        (
            r#"{"access_token":"ya29.token","expires_in":3599,"token_type":"Bearer"}"#,
            "ya29.token",
            3599,
        ),
        (r#"{"access_token":"ya29.token","expires_in":"120"}"#, "ya29.token", 120),
        (r#"{"token":"ya29.token","expiry":"2026-01-02T03:05:05Z"}"#, "ya29.token", 60),
        (
            r#"{"credential":{"access_token":"ya29.token","token_expiry":"2026-01-02T03:05:05Z"}}"#,
            "ya29.token",
            60,
        ),
        (r#" {"accessToken":"eyJ.az","expires_on":1767323145,"expiresOn":"local"}"#, "eyJ.az", 100),
        (r#"{"access_token":"only-a-token"}"#, "only-a-token", 300),
    ];
    for (text, key, life) in table {
        assert_eq!(printed(text), Ok((key.to_owned(), life)), "{text}");
    }
}

#[test]
fn what_is_no_key_or_has_expired_is_named_and_never_shown() {
    let expired = SourceProblem::Expired;
    for (text, problem) in [
        (r#"{"access_token":"canary-token","expires_in":0}"#, expired.clone()),
        (r#"{"access_token":"canary-token","expires_in":-5}"#, expired.clone()),
        (r#"{"token":"canary-token","expiry":"2026-01-01T03:04:05Z"}"#, expired.clone()),
        (
            r#"{"kind":"ExecCredential",
                "status":{"token":"canary-token","expirationTimestamp":"2026-01-02T03:04:05Z"}}"#,
            expired,
        ),
        (r#"{"secret":"canary-token"}"#, SourceProblem::Form),
        (r#"{"access_token":"canary-token","#, SourceProblem::Form),
        (r#"{"access_token":{"canary":"token"}}"#, SourceProblem::Form),
        (r#"{"access_token":"canary-token","expiry":"tomorrow"}"#, SourceProblem::Form),
        (r#"{"kind":"ExecCredential","status":{"clientKeyData":"canary"}}"#, SourceProblem::Form),
    ] {
        assert_eq!(printed(text), Err(problem), "{text}");
    }
    for text in ["", "\n", "canary token", "can", "canary\ncanary", "\u{e9}canary"] {
        let problem = printed(text).unwrap_err();
        assert!(matches!(problem, SourceProblem::Key(_)), "{problem:?}");
        assert!(!problem.to_string().contains("canary"), "{problem}");
    }
    let huge = printed(r#"{"access_token":"ya29.token","expires_in":1e300}"#).unwrap();
    assert_eq!(huge.1, 366 * 24 * 60 * 60);
}

/// Programs whose answers the test gives.
#[derive(Debug)]
struct Played {
    whose: String,
    runs: AtomicUsize,
    answers: Mutex<Receiver<Result<String, SourceProblem>>>,
}

impl Programs for Played {
    fn whose(&self) -> &str {
        &self.whose
    }

    fn accepts(&self, _: &Path) -> bool {
        true
    }

    fn run(&self, _: &ExecSource) -> Result<Zeroizing<Vec<u8>>, SourceProblem> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let answer = self.answers.lock().unwrap().recv().expect("an answer");
        answer.map(|text| Zeroizing::new(text.into_bytes()))
    }
}

type Answers = Sender<Result<String, SourceProblem>>;

fn play(whose: &str) -> (Arc<Played>, Arc<dyn Programs>, Answers) {
    let (answers, heard) = channel();
    let (runs, answered) = (AtomicUsize::new(0), Mutex::new(heard));
    let played = Arc::new(Played { whose: whose.to_owned(), runs, answers: answered });
    (played.clone(), played, answers)
}

fn until(what: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !what() {
        assert!(Instant::now() < deadline, "it does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn living_of(source: &ExecSource, programs: &Arc<dyn Programs>, credential: &str) -> Arc<Living> {
    living(Origin::Program(source.clone(), programs.clone()), credential)
}

/// Those of a test's programs.
fn runs(runs: Runs) -> Sources {
    Sources { runs, asks: Err("not in this test") }
}

const LONG: Duration = Duration::from_secs(1_000_000);

#[test]
fn many_who_wait_and_two_sandboxes_share_one_fetch() {
    let (played, programs, answers) = play("shared");
    let source = source("one", LONG);
    let living: Vec<_> =
        ["a", "b"].map(|name| living_of(&source, &programs, name)).into_iter().collect();
    assert!(Arc::ptr_eq(&living[0], &living[1]));
    let (_, others, _) = play("somebody else's");
    assert!(!Arc::ptr_eq(&living[0], &living_of(&source, &others, "a")));
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..16)
            .map(|number| {
                let living = &living[number % 2];
                scope.spawn(|| living.read().unwrap().key.expose().to_owned())
            })
            .collect();
        answers.send(Ok("sk-shared".to_owned())).unwrap();
        for one in waiting {
            assert_eq!(one.join().unwrap(), "sk-shared");
        }
    });
    assert_eq!(played.runs.load(Ordering::SeqCst), 1);
    let measured = measured();
    assert!(["a", "b"].iter().all(|name| measured[*name].fetches >= 1), "{measured:?}");
}

#[test]
fn a_key_is_fetched_again_ahead_of_its_end_and_the_last_good_one_serves_until_then() {
    let (played, programs, answers) = play("ahead");
    let living = living_of(&source("ahead", Duration::from_secs(5)), &programs, "ahead");
    answers.send(Ok("sk-first".to_owned())).unwrap();
    let first = living.read().unwrap();
    // The thread begins the next fetch, which fails; the key is there all the same.
    answers.send(Err(SourceProblem::Status(3))).unwrap();
    until(|| living.measure().1.failures == 1);
    match living.read() {
        Ok(value) => assert_eq!(value.version, first.version),
        // This machine was slow.
        Err(_) => assert_eq!(living.measure().1.left, Some(Duration::ZERO)),
    }
    answers.send(Ok("sk-second".to_owned())).unwrap();
    until(|| living.version() > first.version);
    assert_eq!(living.value().unwrap().0.key.expose(), "sk-second");
    assert!(played.runs.load(Ordering::SeqCst) >= 3);
    drop(answers);
}

#[tokio::test]
async fn an_expired_key_is_waited_for_and_its_failure_told_to_all_who_wait() {
    let (played, programs, answers) = play("expired");
    let living = living_of(&source("expired", Duration::from_millis(50)), &programs, "expired");
    answers.send(Ok("sk-short".to_owned())).unwrap();
    living.read().unwrap();
    until(|| played.runs.load(Ordering::SeqCst) == 2);
    until(|| living.measure().1.left == Some(Duration::ZERO));
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let living = living.clone();
            tokio::spawn(async move { living.usable(true).await })
        })
        .collect();
    // So that they wait for it.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    answers.send(Err(SourceProblem::Killed(9))).unwrap();
    for one in waiting {
        assert_eq!(one.await.unwrap(), Err(SourceProblem::Killed(9)));
    }
    answers.send(Ok(r#"{"access_token":"sk-later","expires_in":1000000}"#.to_owned())).unwrap();
    until(|| living.measure().1.left > Some(Duration::ZERO));
    assert_eq!(living.usable(true).await, Ok(()));
    assert_eq!(living.value().unwrap().0.key.expose(), "sk-later");
}

#[tokio::test]
async fn keys_that_end_at_once_are_fetched_once_a_second_whoever_asks() {
    let (played, programs, answers) = play("momentary");
    let living = living_of(&source("momentary", LONG), &programs, "momentary");
    for number in 0..100 {
        let answer = format!(r#"{{"access_token":"sk-moment-{number}","expires_in":0.01}}"#);
        answers.send(Ok(answer)).unwrap();
    }
    let begun = Instant::now();
    let runs = || u32::try_from(played.runs.load(Ordering::SeqCst)).unwrap();
    living.read().unwrap();
    // By the requests of sandboxes, by others that read it, and by its own thread.
    while runs() < 3 {
        // Under load, each may have ended before it is seen.
        let _ = living.usable(true).await;
    }
    let reader = living.clone();
    tokio::task::spawn_blocking(move || (0..2).for_each(|_| drop(reader.read()))).await.unwrap();
    until(|| runs() >= 6);
    let (runs, passed) = (runs(), begun.elapsed());
    assert!(passed >= Duration::from_secs(1) * (runs - 1), "{runs} in {passed:?}");
}

#[tokio::test]
async fn an_origin_that_refuses_the_key_has_another_fetched_once() {
    let (played, programs, answers) = play("refused");
    let living = living_of(&source("refused", LONG), &programs, "refused");
    let before = Instant::now();
    answers.send(Ok("sk-revoked".to_owned())).unwrap();
    let first = living.read().unwrap();
    // The request had another key.
    living.refused(before);
    assert_eq!(played.runs.load(Ordering::SeqCst), 1);
    let sent = Instant::now();
    (0..10).for_each(|_| living.refused(sent));
    answers.send(Ok("sk-fresh".to_owned())).unwrap();
    // The next request of whoever was refused waits for it, for a while.
    assert_eq!(living.usable(true).await, Ok(()));
    until(|| living.version() > first.version);
    assert_eq!(living.value().unwrap().0.key.expose(), "sk-fresh");
    assert_eq!(living.version(), first.version + 1);
    // A sandbox can provoke such answers.
    (0..10).for_each(|_| living.refused(Instant::now()));
    assert_eq!(played.runs.load(Ordering::SeqCst), 2);
}

#[test]
fn nothing_of_a_source_is_in_its_debug_output() {
    let (_, programs, answers) = play("debug");
    let living = living_of(&source("debugged", LONG), &programs, "debugged");
    answers.send(Ok("sk-canary-in-debug".to_owned())).unwrap();
    living.read().unwrap();
    let shown = format!("{living:?}");
    assert!(!shown.contains("canary") && !shown.contains("secret-argument"), "{shown}");
    assert!(shown.contains("debugged"), "{shown}");
}

/// A policy with a credential whose key a program prints.
fn policy(program: &str, ttl: u64) -> interceptor_policy::Policy {
    let text = serde_json::json!({
        "network": { "allow": ["api.example.test"] },
        "credentials_v2": { "lab": { "key": { "exec": [program], "ttl_seconds": ttl },
                                     "hosts": ["api.example.test"], "env": "LAB" } } });
    let catalogue = interceptor_policy::Catalogue::builtin();
    interceptor_policy::check(&text.to_string(), &catalogue).policy.expect("a policy")
}

fn load(
    program: &str,
    previous: Option<&Keyring>,
    programs: Runs,
    runs_new: bool,
) -> Result<Keyring, Vec<String>> {
    let sources = runs(programs);
    let means = Means { environment: &|_| None, seed: None, sources, runs_new };
    Keyring::load_with(&policy(program, 86_400), previous, &means)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

#[test]
fn a_keyring_takes_the_new_key_and_still_searches_for_the_old_one() {
    let (_, programs, answers) = play("keyring");
    answers.send(Ok("sk-canary-first-key".to_owned())).unwrap();
    let keyring = load("rotated", None, Ok(programs.clone()), true).unwrap();
    let holds = |text: &str| keyring.may_hold(text.as_bytes());
    assert!(holds("x sk-canary-first-key x") && !holds("x sk-canary-second-key x"));
    answers.send(Ok("sk-canary-second-key".to_owned())).unwrap();
    // What has just come is not asked for again.
    assert!(keyring.reload().is_empty() && !holds("sk-canary-second-key"));
    let past = |since: Instant| until(|| since.elapsed() > Duration::from_millis(1100));
    past(Instant::now());
    let reload = keyring.reload();
    assert!(reload.is_empty(), "{reload:?}");
    let policy = policy("rotated", 86_400);
    let id = policy.credential_named("lab").unwrap();
    assert_eq!(keyring.key(&policy, id).unwrap().expose(), "sk-canary-second-key");
    assert!(holds("x sk-canary-first-key x") && holds("x sk-canary-second-key x"));
    // A failure keeps the key, and names the program.
    answers.send(Err(SourceProblem::Status(7))).unwrap();
    past(Instant::now());
    let failed = keyring.reload();
    let said = "the key of credential `lab`, from the program \"rotated\", ended with status 7";
    assert_eq!(failed.iter().map(ToString::to_string).collect::<Vec<_>>(), [said]);
    assert_eq!(keyring.key(&policy, id).unwrap().expose(), "sk-canary-second-key");
    assert!(!format!("{keyring:?}").contains("canary"));
}

#[test]
fn programs_are_run_only_where_they_may_be_and_new_ones_only_if_they_may() {
    let why = "not in this test";
    let refused = load("refused", None, Err(why), true).unwrap_err();
    assert!(refused[0].ends_with("is not run: not in this test"), "{refused:?}");
    let (played, programs, answers) = play("known");
    answers.send(Ok("sk-known-key".to_owned())).unwrap();
    let first = load("known", None, Ok(programs.clone()), true).unwrap();
    let again = load("known", Some(&first), Ok(programs.clone()), false).unwrap();
    assert_eq!(played.runs.load(Ordering::SeqCst), 1);
    let new = load("unknown", Some(&again), Ok(programs.clone()), false).unwrap_err();
    assert!(new[0].contains("is not run, because it is new here"), "{new:?}");
    let none = load("known", None, Ok(programs), false).unwrap_err();
    assert!(none[0].contains("because it is new here"), "{none:?}");
    assert_eq!(played.runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn only_the_sandbox_whose_key_was_refused_waits_for_another() {
    let (_, programs, answers) = play("provoked");
    answers.send(Ok("sk-canary-provoked".to_owned())).unwrap();
    let keyring = || load("provoked", None, Ok(programs.clone()), true).unwrap();
    let (provoking, other) = (keyring(), keyring());
    let policy = policy("provoked", 86_400);
    let id = policy.credential_named("lab").unwrap();
    provoking.refused(id, Instant::now());
    // The program runs now, and prints nothing yet.
    let waits = async |keyring: &Keyring| {
        tokio::select! {
            biased;
            usable = keyring.usable(id) => { usable.unwrap(); false }
            () = std::future::ready(()) => true,
        }
    };
    assert!(waits(&provoking).await);
    assert!(!waits(&other).await);
    answers.send(Ok("sk-canary-another".to_owned())).unwrap();
    assert!(provoking.usable(id).await.is_ok());
    assert_eq!(provoking.key(&policy, id).unwrap().expose(), "sk-canary-another");
}

#[tokio::test]
async fn a_key_from_a_program_is_handed_over_only_to_who_may_run_it() {
    let (_, programs, answers) = play("handed");
    answers.send(Ok("sk-canary-handed".to_owned())).unwrap();
    let keyring = load("handed", None, Ok(programs), true).unwrap();
    let policy = policy("handed", 86_400);
    let restore =
        |runs: Runs| Keyring::restore(policy.credentials(), keyring.hand_over(), &self::runs(runs));
    let errors = restore(Err("not in this process")).unwrap_err();
    assert!(errors[0].to_string().ends_with("is not run: not in this process"), "{errors:?}");
    // One that may run it has the key and its life, and runs nothing until that ends.
    let (played, others, _answers) = play("handed to");
    let restored = restore(Ok(others)).unwrap();
    let id = policy.credential_named("lab").unwrap();
    assert_eq!(restored.key(&policy, id).unwrap().expose(), "sk-canary-handed");
    assert!(restored.usable(id).await.is_ok());
    assert_eq!(restored.key(&policy, id).unwrap().expose(), "sk-canary-handed");
    assert_eq!(played.runs.load(Ordering::SeqCst), 0);
}
