//! What each key does. A decision is only taken of what stands on the screen.

use std::time::Instant;

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde_json::json;

use super::heard::Ask;
use super::list::{List, Move};
use super::requests::Decisions;
use super::screen::{Asks, Cover, Goal, Prompt, Screen, Story, View};
use super::store::Key;
use super::text::Plain;
use super::waiting::{self, Terms};
use crate::cli::ctl::duration;

const HOUR: u64 = 3600;
/// The longest text that can be typed.
const LONGEST: usize = 200;

/// Does what a key says; returns what is to be asked.
pub(super) fn press(screen: &mut Screen, key: KeyEvent, now: Instant) -> Asks {
    if key.kind == KeyEventKind::Release {
        return Vec::new();
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    if control && matches!(key.code, KeyCode::Char('c' | 'd')) {
        screen.is_over = true;
        return Vec::new();
    }
    if control || key.modifiers.contains(KeyModifiers::ALT) {
        return Vec::new();
    }
    if screen.prompt.is_some() {
        return typed(screen, key.code);
    }
    screen.said = None;
    if let Some(to) = movement(key.code) {
        go(screen, to);
        return Vec::new();
    }
    match key.code {
        KeyCode::Char('q') => screen.is_over = true,
        KeyCode::Char('?') => cover(screen, Cover::Help),
        KeyCode::Esc => back(screen),
        _ if screen.cover.is_some() => return in_cover(screen, key.code, now),
        KeyCode::Char('1') => screen.view = View::Requests,
        KeyCode::Char('2') => screen.view = View::Sandboxes,
        KeyCode::Char('3') => screen.view = View::Leases,
        code => {
            return match screen.view {
                View::Requests => in_requests(screen, code, now),
                View::Sandboxes => in_sandboxes(screen, code),
                View::Leases => in_leases(screen, code),
            };
        }
    }
    Vec::new()
}

/// Text that was pasted: it goes where text is typed, and is no key.
pub(super) fn paste(screen: &mut Screen, text: &str) {
    if let Some(prompt) = &mut screen.prompt {
        let typed = text.chars().filter(|one| (' '..='~').contains(one));
        let room = LONGEST.saturating_sub(prompt.text.len());
        prompt.text.extend(typed.take(room));
        follow(screen);
    }
}

fn movement(code: KeyCode) -> Option<Move> {
    Some(match code {
        KeyCode::Up | KeyCode::Char('k') => Move::Up,
        KeyCode::Down | KeyCode::Char('j') => Move::Down,
        KeyCode::PageUp => Move::PageUp,
        KeyCode::PageDown | KeyCode::Char(' ') => Move::PageDown,
        KeyCode::Home | KeyCode::Char('g') => Move::Home,
        KeyCode::End | KeyCode::Char('G') => Move::End,
        _ => return None,
    })
}

fn go(screen: &mut Screen, to: Move) {
    let room = screen.room;
    if screen.cover.is_some() {
        return screen.scroll.scroll(to, room.lines, room.list);
    }
    match screen.view {
        View::Requests => screen.requests.go(&screen.store, to, room.requests),
        View::Sandboxes => screen.sandboxes.go(to, &screen.store.sandbox_keys(), room.list),
        View::Leases => screen.leases.go(to, &screen.store.lease_keys(), room.list),
    }
}

fn cover(screen: &mut Screen, cover: Cover) {
    screen.scroll = List::default();
    screen.cover = Some(cover);
}

/// Leaves what covers the list, or the filter.
fn back(screen: &mut Screen) {
    if screen.cover.take().is_some() {
        return;
    }
    if screen.view != View::Requests {
        screen.view = View::Requests;
        return;
    }
    screen.requests.text.clear();
    screen.requests.sandbox = None;
    screen.requests.decisions = Decisions::All;
    screen.requests.refilter(&screen.store);
}

fn in_requests(screen: &mut Screen, code: KeyCode, now: Instant) -> Asks {
    match code {
        KeyCode::Enter => return tell(screen),
        KeyCode::Char('/') => {
            let text = screen.requests.text.clone();
            screen.prompt = Some(Prompt { goal: Goal::Filter, text });
        }
        KeyCode::Char('d') => {
            screen.requests.decisions = match screen.requests.decisions {
                Decisions::All => Decisions::Refused,
                Decisions::Refused => Decisions::Allowed,
                Decisions::Allowed => Decisions::All,
            };
            screen.requests.refilter(&screen.store);
        }
        KeyCode::Char('s') => {
            let selected = screen.requests.selected(&screen.store).map(|row| row.sandbox.clone());
            screen.requests.sandbox = match screen.requests.sandbox {
                Some(_) => None,
                None => selected,
            };
            screen.requests.refilter(&screen.store);
        }
        KeyCode::Char('p') => screen.requests.pause(&screen.store),
        KeyCode::Tab => screen.waiting.go(Move::Down, screen.room.waiting),
        KeyCode::BackTab => screen.waiting.go(Move::Up, screen.room.waiting),
        KeyCode::Char('m') => screen.waiting.more(&screen.store),
        KeyCode::Char('o') if !screen.waiting.order.is_empty() => cover(screen, Cover::Question),
        code => return answer(screen, code, now),
    }
    Vec::new()
}

fn in_cover(screen: &mut Screen, code: KeyCode, now: Instant) -> Asks {
    match (&screen.cover, code) {
        (Some(Cover::Question), KeyCode::Enter | KeyCode::Char('o')) => screen.cover = None,
        (Some(Cover::Question), code) => return answer(screen, code, now),
        (Some(Cover::Story(story)), KeyCode::Char('h')) => return permit(screen, story_of(story)),
        (Some(Cover::Story(story)), KeyCode::Char('l')) => {
            let sandbox = story.record["sandbox"].as_str().unwrap_or_default().to_owned();
            let rule = story.told.as_ref().and_then(|told| told["rule"]["pointer"].as_str());
            let marked = rule.map(str::to_owned);
            return vec![(story.source, Ask::Policy { sandbox, marked })];
        }
        (_, KeyCode::Enter) => screen.cover = None,
        _ => {}
    }
    Vec::new()
}

/// Answers the selected question.
fn answer(screen: &mut Screen, code: KeyCode, now: Instant) -> Asks {
    let Some((key, question)) = screen.waiting.selected(&screen.store) else { return Vec::new() };
    let (key, patch) = (key.clone(), screen.waiting.patch());
    let terms = match code {
        KeyCode::Char('w') => {
            screen.waiting.other_patch(&screen.store);
            return Vec::new();
        }
        KeyCode::Char('a') => Some(Terms::Once),
        KeyCode::Char('h') => Some(Terms::Seconds(HOUR)),
        KeyCode::Char('A') => Some(Terms::Always),
        KeyCode::Char('t' | 'u' | 'r') => None,
        _ => return Vec::new(),
    };
    if !screen.waiting.is_settled(now) {
        let is_seen = screen.waiting.settles_at().is_some();
        screen.complain(match is_seen {
            true => "not answered: it has only just appeared; look, and press the key again",
            false => "not answered: not all of it is seen; press o to see it, then answer",
        });
        return Vec::new();
    }
    let ask = match (code, terms) {
        (KeyCode::Char('t'), _) => return prompt(screen, Goal::Time(key, patch)),
        (KeyCode::Char('u'), _) => return prompt(screen, Goal::Uses(key, patch)),
        (_, Some(terms)) => waiting::approve(question, patch, terms),
        (_, None) => Some(waiting::refuse(question)),
    };
    send(screen, key, ask, terms == Some(Terms::Always))
}

/// Sends an answer to a question.
fn send(screen: &mut Screen, key: Key, ask: Option<Ask>, needs_file: bool) -> Asks {
    let sandbox = screen.store.questions.get(&key).map(|one| (key.0, one.sandbox.clone()));
    let sandbox = sandbox.and_then(|key| screen.store.sandboxes.get(&key));
    if needs_file && !sandbox.is_some_and(|sandbox| sandbox.has_file) {
        screen.complain("its policy has no file to write to: approve it for a time instead");
        return Vec::new();
    }
    match ask {
        Some(ask) => screen.decide(Some(key.clone()), key.0, ask),
        None => {
            screen.complain("no edit of the policy permits it: it can only be refused");
            Vec::new()
        }
    }
}

fn prompt(screen: &mut Screen, goal: Goal) -> Asks {
    screen.prompt = Some(Prompt { goal, text: String::new() });
    Vec::new()
}

/// A key while text is typed.
fn typed(screen: &mut Screen, code: KeyCode) -> Asks {
    let Some(prompt) = &mut screen.prompt else { return Vec::new() };
    match code {
        KeyCode::Char(one) if (' '..='~').contains(&one) && prompt.text.len() < LONGEST => {
            prompt.text.push(one);
        }
        KeyCode::Backspace => {
            prompt.text.pop();
        }
        KeyCode::Esc => {
            let was = screen.prompt.take();
            if was.is_some_and(|was| matches!(was.goal, Goal::Filter)) {
                screen.requests.text.clear();
                screen.requests.refilter(&screen.store);
            }
            return Vec::new();
        }
        KeyCode::Enter => return entered(screen),
        _ => {}
    }
    follow(screen);
    Vec::new()
}

/// The filter holds while it is typed.
fn follow(screen: &mut Screen) {
    if let Some(Prompt { goal: Goal::Filter, text }) = &screen.prompt {
        screen.requests.text = text.trim().to_ascii_lowercase();
        screen.requests.refilter(&screen.store);
    }
}

fn entered(screen: &mut Screen) -> Asks {
    let Some(Prompt { goal, text }) = screen.prompt.take() else { return Vec::new() };
    let text = text.trim();
    let (key, patch, terms) = match goal {
        Goal::Filter => return Vec::new(),
        Goal::Time(key, patch) => match duration(text) {
            Ok(time) => (key, patch, Terms::Seconds(time.as_secs())),
            Err(why) => return wrong(screen, &why),
        },
        Goal::Uses(key, patch) => match text.parse() {
            Ok(uses @ 1..) => (key, patch, Terms::Uses(uses)),
            _ => return wrong(screen, "write a number of requests, 1 or more"),
        },
    };
    let Some(question) = screen.store.questions.get(&key) else {
        return wrong(screen, "it waits no more");
    };
    let ask = waiting::approve(question, patch, terms);
    send(screen, key, ask, false)
}

fn wrong(screen: &mut Screen, why: &str) -> Asks {
    screen.complain(&format!("not answered: {why}"));
    Vec::new()
}

/// Tells the story of the selected request.
fn tell(screen: &mut Screen) -> Asks {
    let Some(row) = screen.requests.selected(&screen.store) else { return Vec::new() };
    let record: serde_json::Value = serde_json::from_str(&row.json).unwrap_or_default();
    let (number, source) = (row.number, row.source);
    let ask = Ask::Story { record: number, json: record.clone() };
    cover(screen, Cover::Story(Story { number, source, record, told: None }));
    vec![(source, ask)]
}

/// The sandbox, and the lease by which its request is permitted.
fn story_of(story: &Story) -> Option<(u32, Ask)> {
    let told = story.told.as_ref()?;
    let patch = told["patches"].get(0)?["patch"].clone();
    let sandbox = story.record["sandbox"].as_str()?.to_owned();
    let body = json!({ "patch": patch, "seconds": HOUR });
    Some((story.source, Ask::Lease { sandbox, body }))
}

fn permit(screen: &mut Screen, lease: Option<(u32, Ask)>) -> Asks {
    match lease {
        Some((source, ask)) => screen.decide(None, source, ask),
        None => Vec::new(),
    }
}

fn in_sandboxes(screen: &mut Screen, code: KeyCode) -> Asks {
    match (code, screen.sandboxes.picked().cloned()) {
        (KeyCode::Enter | KeyCode::Char('l'), Some((source, sandbox))) => {
            return vec![(source, Ask::Policy { sandbox, marked: None })];
        }
        (KeyCode::Char('s'), Some((_, sandbox))) => {
            screen.requests.sandbox = Some(Plain::of(&sandbox));
            screen.requests.refilter(&screen.store);
            screen.view = View::Requests;
        }
        _ => {}
    }
    Vec::new()
}

fn in_leases(screen: &mut Screen, code: KeyCode) -> Asks {
    let picked = screen.leases.picked().cloned().filter(|_| code == KeyCode::Char('x'));
    let Some((source, id)) = picked else { return Vec::new() };
    let leases = screen.store.leases();
    let found = leases.into_iter().find(|(from, lease)| *from == source && lease.id == id);
    let Some((_, lease)) = found else { return Vec::new() };
    let sandbox = lease.sandbox.clone();
    screen.decide(None, source, Ask::Revoke { sandbox, lease: id })
}
