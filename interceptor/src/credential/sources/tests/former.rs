//! Keys that were in use before, and what takes their place.

use interceptor_policy::{KeySource, Policy};

use super::super::super::former::{Former, Formers, MOST, MOST_REFUSED};
use super::super::super::key::RealKey;
use super::super::super::watch::KeyWatch;
use super::*;
use crate::logging::Secrets as _;

fn key(text: &str) -> Arc<RealKey> {
    Arc::new(RealKey::parse(Zeroizing::new(text.as_bytes().to_vec())).unwrap())
}

/// The source of the key in a policy, which its keyring has.
fn living_in(policy: &Policy, programs: &Arc<dyn Programs>) -> Arc<Living> {
    let KeySource::Exec(source) = &policy.credentials()[0].key else { panic!("a program") };
    living_of(source, programs, "lab")
}

/// Has another key fetched.
fn give(living: &Arc<Living>, answers: &Answers, text: &str) {
    let before = living.version();
    answers.send(Ok(text.to_owned())).unwrap();
    living.begin();
    until(|| living.version() > before);
}

fn told(keyring: &Keyring) -> Vec<String> {
    let mut all = Vec::new();
    keyring.each(&mut |text, _| all.push(String::from_utf8_lossy(text).into_owned()));
    all
}

const FOUR: [&str; 4] = ["sk-canary-one", "sk-canary-two", "sk-canary-three", "sk-canary-four"];

#[tokio::test]
async fn a_key_of_three_refreshes_ago_is_still_found_in_answers_and_records() {
    let (_, programs, answers) = play("four");
    answers.send(Ok(FOUR[0].to_owned())).unwrap();
    let keyring = load("four", None, Ok(programs.clone()), true).unwrap();
    let policy = policy("four", 86_400);
    let living = living_in(&policy, &programs);
    let all_in = |keyring: &Keyring| {
        let answer = FOUR.join(" ");
        let redactor = keyring.redactor().unwrap().unwrap();
        let redacted = redactor.text(answer.as_bytes()).expect("a finding");
        let redacted = String::from_utf8(redacted).unwrap();
        let told = told(keyring);
        !redacted.contains("canary") && FOUR.iter().all(|key| told.iter().any(|one| one == key))
    };
    give(&living, &answers, FOUR[1]);
    assert!(keyring.may_hold(FOUR[1].as_bytes()));
    // This keyring sees only the last of these.
    give(&living, &answers, FOUR[2]);
    give(&living, &answers, FOUR[3]);
    assert!(all_in(&keyring));
    // The policy is read again, with another program too; and another process takes over.
    assert!(all_in(&load("four", Some(&keyring), Ok(programs.clone()), true).unwrap()));
    answers.send(Ok("sk-of-another-program".to_owned())).unwrap();
    assert!(all_in(&load("five", Some(&keyring), Ok(programs.clone()), true).unwrap()));
    let (_, others, _answers) = play("four, taken over");
    let handed = serde_json::to_vec(&keyring.hand_over()).unwrap();
    let handed = serde_json::from_slice(&handed).unwrap();
    let restored = Keyring::restore(policy.credentials(), handed, &runs(Ok(others))).unwrap();
    assert!(all_in(&restored));
    // A key that comes back is current, and no former one.
    give(&living, &answers, FOUR[0]);
    assert!(all_in(&keyring));
    assert!(!living.value().unwrap().1.holds(&key(FOUR[0])));
}

#[test]
fn the_key_that_was_sent_is_searched_for_in_its_answer_even_if_it_was_forgotten() {
    let (_, programs, answers) = play("sent");
    answers.send(Ok("sk-canary-current".to_owned())).unwrap();
    let keyring = load("sent", None, Ok(programs), true).unwrap();
    let id = policy("sent", 86_400).credential_named("lab").unwrap();
    let text = b"sk-canary-forgotten sk-canary-current";
    let redacted = |sent: Option<&str>| {
        let sent = sent.map(|text| (id, key(text)));
        let (redactor, _) = KeyWatch::begin(&keyring, sent).unwrap();
        String::from_utf8(redactor.unwrap().text(text).unwrap()).unwrap()
    };
    assert!(redacted(None).contains("forgotten"));
    let with = redacted(Some("sk-canary-forgotten"));
    assert!(!with.contains("canary"), "{with}");
    // Only there.
    assert!(redacted(Some("sk-canary-current")).contains("forgotten"));
}

#[test]
fn no_refusal_and_no_fetch_pushes_a_living_key_out() {
    let (played, programs, answers) = play("many");
    let living = living_of(&source("many", LONG), &programs, "many");
    for number in 0..=MOST_REFUSED {
        give(&living, &answers, &format!("sk-number-{number}"));
    }
    let runs = || played.runs.load(Ordering::SeqCst);
    let before = runs();
    assert_eq!(living.value().unwrap().1.len(), MOST_REFUSED);
    living.refused(Instant::now());
    assert!(living.due().is_some(), "a fetch has begun");
    for number in MOST_REFUSED + 1..=MOST {
        give(&living, &answers, &format!("sk-number-{number}"));
    }
    assert_eq!(runs(), before + MOST - MOST_REFUSED);
    living.begin();
    until(|| living.measure().1.failures >= 1);
    assert_eq!(runs(), before + MOST - MOST_REFUSED);
    let (value, former) = living.value().unwrap();
    assert_eq!(value.key.expose(), format!("sk-number-{MOST}"));
    assert!((0..MOST).all(|number| former.holds(&key(&format!("sk-number-{number}")))));
}

#[test]
fn only_what_has_expired_makes_room() {
    let hour = Duration::from_secs(3600);
    let (current, mut former) = (key("sk-current"), Formers::default());
    for number in 0..MOST {
        // The third has expired.
        let left = if number == 2 { Duration::ZERO } else { hour };
        former.add(Former::of(key(&format!("sk-number-{number}")), left, true));
    }
    assert!(former.have_room());
    former.add(Former::of(key("sk-another"), hour, true));
    former.settle_source(&current);
    assert_eq!(former.len(), MOST);
    assert!(!former.holds(&key("sk-number-2")) && former.holds(&key("sk-number-0")));
    assert!(!former.have_room());
    // One whose end was not told is kept for a day, and one that was for a while after it.
    let kept = |left, is_told| Former::of(current.clone(), left, is_told).left().1;
    assert!(kept(Duration::ZERO, false) > 23 * hour);
    assert!(kept(hour, true) > hour && kept(hour, true) < 3 * hour);
    // It is forgotten afterwards.
    let mut over = Formers::default();
    over.add(Former::lasting(key("sk-over"), Duration::ZERO, Duration::ZERO));
    over.prune();
    assert_eq!(over.len(), 0);
}

#[tokio::test]
async fn a_key_and_its_life_are_handed_over_together() {
    let (_, programs, answers) = play("pair");
    let with = |key: &str, seconds: u64| {
        serde_json::json!({ "access_token": key, "expires_in": seconds }).to_string()
    };
    answers.send(Ok(with("sk-canary-older", 50_000))).unwrap();
    let keyring = load("pair", None, Ok(programs.clone()), true).unwrap();
    let policy = policy("pair", 86_400);
    let id = policy.credential_named("lab").unwrap();
    let early = keyring.hand_over();
    // The keyring has not seen this one.
    give(&living_in(&policy, &programs), &answers, &with("sk-canary-newer", 90_000));
    let late = keyring.hand_over();
    let (_, others, _answers) = play("pair, taken over");
    let restore =
        |handed| Keyring::restore(policy.credentials(), handed, &runs(Ok(others.clone()))).unwrap();
    let left = || living_in(&policy, &others).measure().1.left.unwrap();
    let first = restore(early);
    assert_eq!(first.key(&policy, id).unwrap().expose(), "sk-canary-older");
    assert!(left() < Duration::from_secs(60_000), "{:?}", left());
    // The one that lasts longer serves all from now on.
    let second = restore(late);
    assert!(left() > Duration::from_secs(60_000), "{:?}", left());
    for keyring in [&first, &second] {
        assert!(keyring.usable(id).await.is_ok());
        assert_eq!(keyring.key(&policy, id).unwrap().expose(), "sk-canary-newer");
        assert!(keyring.may_hold(b"sk-canary-older"));
    }
    let living = living_in(&policy, &others);
    living.take(&key("sk-canary-other"), Life::OVER, Formers::default());
    assert_eq!(living.value().unwrap().0.key.expose(), "sk-canary-newer");
    assert!(left() > Duration::from_secs(60_000) && first.may_hold(b"sk-canary-other"));
}

#[tokio::test]
async fn no_request_is_sent_while_the_key_of_the_source_does_not_fit_its_placeholder() {
    let (_, programs, answers) = play("misfit");
    answers.send(Ok("sk-canary-fits".to_owned())).unwrap();
    let keyring = load("misfit", None, Ok(programs.clone()), true).unwrap();
    let policy = policy("misfit", 86_400);
    let id = policy.credential_named("lab").unwrap();
    let living = living_in(&policy, &programs);
    let placeholder = keyring.placeholder(id).unwrap().as_str().to_owned();
    give(&living, &answers, &placeholder[placeholder.len() - 8..]);
    for _ in 0..2 {
        let error = keyring.usable(id).await.unwrap_err().to_string();
        assert!(error.contains("from the program \"misfit\""), "{error}");
    }
    assert!(keyring.may_hold(b"sk-canary-fits"));
    give(&living, &answers, "sk-canary-fits-too");
    assert!(keyring.usable(id).await.is_ok());
    assert_eq!(keyring.key(&policy, id).unwrap().expose(), "sk-canary-fits-too");
}

#[test]
fn a_key_without_an_expiry_ends_by_the_clock_too() {
    for text in ["sk-plain-key", r#"{"access_token":"only-a-token"}"#] {
        let text = Zeroizing::new(text.as_bytes().to_vec());
        let read = read(text, &source("p", Duration::from_secs(300)), NOW.parse().unwrap());
        let read = read.unwrap();
        assert_eq!(read.until, Some("2026-01-02T03:09:05Z".parse().unwrap()));
        assert!(!read.is_told);
    }
}
