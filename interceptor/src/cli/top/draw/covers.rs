//! What covers the list: a question, a request's story, a policy, the keys. All are lines that
//! scroll.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Span;

use super::super::list::List;
use super::super::policy::Document;
use super::super::screen::{Cover, Screen};
use super::super::text::{Plain, fit, wrap};
use super::cells::{Setting, line, put, row};
use super::{story, waiting};

/// The keys, and what they do.
const HELP: &[&str] = &[
    "What waits for you",
    "  a          approve: the requests that wait go on",
    "  h          approve them, and the same for 1 hour",
    "  t          approve them, and the same for a time that you type",
    "  u          approve so many requests",
    "  A          approve, and write the edit into the policy's file",
    "  r          refuse",
    "  w          the other edit: similar ones too",
    "  o          the whole question",
    "  Tab        the next question; Shift-Tab the one before",
    "  m          all questions of this sandbox, or the oldest six",
    "",
    "Requests (1)",
    "  arrows, j k, PageUp, PageDown, Home, End   move",
    "  Enter      the story of a request, and what would permit it",
    "  /          show what has a text; Esc shows all again",
    "  d          show refused, allowed or all",
    "  s          show the selected one's sandbox, or all",
    "  p          hold the list still",
    "",
    "Sandboxes (2)",
    "  Enter      the policy",
    "  s          its requests",
    "",
    "Leases (3): what is permitted beside the policies",
    "  x          revoke",
    "",
    "q or Ctrl-C ends. A question that has just appeared cannot be answered for 0.8 seconds.",
];

/// Draws it.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, screen: &mut Screen, setting: Setting) {
    let cells = usize::from(area.width);
    let (title, lines) = match &screen.cover {
        None => return,
        Some(Cover::Help) => {
            ("Keys".to_owned(), HELP.iter().map(|text| (*text).to_owned()).collect::<Vec<String>>())
        }
        Some(Cover::Question) => match question(screen, cells) {
            Some(all) => all,
            None => return,
        },
        Some(Cover::Story(told)) => {
            let policy = told.told.as_ref();
            (story::title(&told.record), story::lines(told, policy, &screen.store, cells))
        }
        Some(Cover::Policy(document)) => {
            (format!("The policy of {}", Plain::of(&document.sandbox)), policy(document))
        }
    };
    line(frame, row(area, 0), &format!(" {title}"), setting.theme.bar());
    let is_question = matches!(screen.cover, Some(Cover::Question));
    let keys = u16::from(is_question);
    let height = area.height.saturating_sub(1 + keys);
    screen.room.list = height.into();
    screen.room.lines = lines.len();
    let most = lines.len().saturating_sub(height.into());
    screen.scroll = List { selected: 0, first: screen.scroll.first.min(most) };
    let marked = match &screen.cover {
        Some(Cover::Policy(document)) => document.marked.map(|at| at + document.about.len()),
        _ => None,
    };
    for (at, text) in (1..=height).zip(&lines[screen.scroll.first..]) {
        put(frame, area, at, vec![Span::raw(fit(text, cells))]);
        if marked == Some(screen.scroll.first + usize::from(at) - 1) {
            frame.buffer_mut().set_style(row(area, at), setting.theme.selected());
        }
    }
    if is_question {
        let is_settled = screen.waiting.is_settled(setting.now);
        let look = if is_settled { setting.theme.strong() } else { setting.theme.faint() };
        line(frame, row(area, area.height - 1), waiting::KEYS, look);
        screen.waiting.shown(true, setting.now);
    }
}

/// What can be pressed.
pub(super) fn keys(cover: &Cover) -> &'static str {
    match cover {
        Cover::Help | Cover::Question | Cover::Policy(_) => " arrows scroll  Esc back  q quit",
        Cover::Story(story) => {
            let permits = story.told.as_ref().is_some_and(|told| told["patches"][0].is_object());
            match permits {
                true => " h permit for 1 hour  l the policy  arrows scroll  Esc back  q quit",
                false => " l the policy  arrows scroll  Esc back  q quit",
            }
        }
    }
}

fn question(screen: &Screen, cells: usize) -> Option<(String, Vec<String>)> {
    let (_, question) = screen.waiting.selected(&screen.store)?;
    let title = format!("{} asks", Plain::of(&question.sandbox));
    let mut lines = waiting::details(question, screen.waiting.patch(), cells);
    lines.push(String::new());
    for proposed in &question.patches {
        let which = if proposed.wider { "similar ones too" } else { "these alone" };
        lines.extend(wrap(&format!("  {which}: {}", proposed.text), cells));
    }
    Some((title, lines))
}

fn policy(document: &Document) -> Vec<String> {
    let about = document.about.iter().map(ToString::to_string);
    let numbered = document.lines.iter().zip(1..);
    about.chain(numbered.map(|(text, number)| format!("{number:>4}  {text}"))).collect()
}
