//! What waits for a person: the questions in short, and the selected one in full, so that nothing
//! is approved that was not seen.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Span;

use super::super::heard::Question;
use super::super::screen::Screen;
use super::super::text::{Plain, fit, left, number, wrap};
use super::cells::{Setting, column, line, put, row, width};

/// The rows that the list of requests keeps.
const BELOW: u16 = 4;
/// The most questions in sight.
const MOST: u16 = 8;
/// What can be pressed.
pub(super) const KEYS: &str =
    " a approve  h for 1 hour  t time  u uses  A always  w wider  r refuse  o all";

/// Draws what waits, if anything does; returns the room below.
pub(super) fn draw(
    frame: &mut Frame<'_>,
    area: Rect,
    screen: &mut Screen,
    setting: Setting,
) -> Rect {
    let count = screen.waiting.order.len();
    let cells = usize::from(area.width);
    let Some((_, question)) = screen.waiting.selected(&screen.store) else {
        screen.waiting.unsettle();
        return area;
    };
    let details = details(question, screen.waiting.patch(), cells);
    // The title, the keys, and what is left for the list and the details.
    let room = area.height.saturating_sub(2 + BELOW);
    let shown = u16::try_from(count).unwrap_or(MOST).min(MOST).min((room / 2).max(1));
    let rest = usize::from(room.saturating_sub(shown));
    let is_whole = details.len() <= rest;
    screen.waiting.list.settle(count, shown.into());
    screen.room.waiting = shown.into();
    title(frame, row(area, 0), screen, setting);
    list(frame, Rect { y: area.y + 1, height: shown, ..area }, screen, setting);
    let mut at = 1 + shown;
    let seen = if is_whole { details.len() } else { rest.saturating_sub(1) };
    for text in &details[..seen] {
        put(frame, area, at, vec![Span::raw(fit(text, cells))]);
        at += 1;
    }
    if !is_whole {
        line(frame, row(area, at), " Not all of it fits here: press o", setting.theme.bad());
        at += 1;
    }
    let is_settled = screen.waiting.is_settled(setting.now);
    let look = if is_settled { setting.theme.strong() } else { setting.theme.faint() };
    line(frame, row(area, at), KEYS, look);
    screen.waiting.shown(is_whole, setting.now);
    at += 1;
    Rect { y: area.y + at, height: area.height.saturating_sub(at), ..area }
}

fn title(frame: &mut Frame<'_>, area: Rect, screen: &Screen, setting: Setting) {
    let count = screen.store.questions.len() as u64;
    let mut text = format!(" Waiting for you: {}", crate::words::count(count, "question"));
    if screen.waiting.order.len() > 1 {
        text.push_str("  (Tab: the next)");
    }
    if screen.waiting.hidden > 0 {
        let hidden = number(screen.waiting.hidden as u64);
        text.push_str(&format!("  {hidden} more of the same sandboxes (m shows them)"));
    }
    line(frame, area, &text, setting.theme.urgent());
}

fn list(frame: &mut Frame<'_>, area: Rect, screen: &Screen, setting: Setting) {
    let waiting = &screen.waiting;
    let keys = waiting.order.iter().enumerate().skip(waiting.list.first);
    let seen: Vec<_> = keys
        .take(area.height.into())
        .filter_map(|(at, key)| Some((at, screen.store.questions.get(key)?)))
        .collect();
    let names: Vec<Plain> = seen.iter().map(|(_, one)| Plain::of(&one.sandbox)).collect();
    let name_width = width(names.iter(), 4, 20);
    for (place, ((at, question), name)) in seen.iter().zip(&names).enumerate() {
        let is_selected = *at == waiting.list.selected;
        let time = question.expires.map(|until| left(until, setting.time)).unwrap_or_default();
        let requests = match question.waiting {
            1 => "1 waits".to_owned(),
            count => format!("{count} wait"),
        };
        let used = 2 + name_width + 1 + 8 + 8 + 8;
        let target = fit(&question.target, usize::from(area.width).saturating_sub(used));
        let spans = vec![
            Span::raw(if is_selected { "> " } else { "  " }),
            column(name, name_width),
            column(&time, 7),
            column(&requests, 7),
            column(&question.method, 7),
            Span::raw(target),
        ];
        let at = u16::try_from(place).unwrap_or(u16::MAX);
        put(frame, area, at, spans);
        if is_selected {
            frame.buffer_mut().set_style(row(area, at), setting.theme.selected());
        }
    }
}

/// A question in full.
pub(super) fn details(question: &Question, patch: usize, width: usize) -> Vec<String> {
    let whole = format!("{} {}", question.method, question.target);
    let mut lines = paragraph(&whole, width);
    lines.extend(paragraph(&question.message, width));
    let count = question.patches.len();
    let edit = match question.patches.get(patch) {
        Some(chosen) => {
            let which = match (count, chosen.wider) {
                (0 | 1, _) => "To permit".to_owned(),
                (_, false) => format!("To permit these alone ({} of {count}, w)", patch + 1),
                (_, true) => format!("To permit similar ones too ({} of {count}, w)", patch + 1),
            };
            format!("{which}: {}", chosen.text)
        }
        None => "No edit of the policy permits it.".to_owned(),
    };
    lines.extend(paragraph(&edit, width));
    lines
}

/// Lines that begin a cell further in, and those after the first two.
fn paragraph(text: &str, width: usize) -> Vec<String> {
    let wrapped = wrap(text, width.saturating_sub(4));
    let lines = wrapped.into_iter().enumerate();
    lines.map(|(at, line)| format!("{}{line}", if at == 0 { "  " } else { "    " })).collect()
}
