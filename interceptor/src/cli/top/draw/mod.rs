//! Draws the screen, from the top: what there is, what waits for a person, a list, and keys. Only
//! rows in sight are made; ratatui writes the cells that have changed.

mod cells;
mod covers;
mod lists;
mod requests;
mod story;
mod waiting;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Span;

pub(super) use self::cells::Setting;
use self::cells::{line, put, row};
use super::screen::{Cover, Goal, Screen, View};
use super::store::Link;
use super::text::{fit, number};
use super::theme::Theme;

/// The smallest screen on which anything is shown.
const SMALLEST: (u16, u16) = (40, 10);

/// Draws it.
pub(super) fn draw(frame: &mut Frame<'_>, screen: &mut Screen, setting: Setting) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        screen.waiting.unsettle();
        let text = format!("at least {} x {}", SMALLEST.0, SMALLEST.1);
        return put(frame, area, 0, vec![Span::raw(fit(&text, area.width.into()))]);
    }
    let is_seen = screen.cover.is_none() && screen.view == View::Requests;
    if !is_seen && !matches!(screen.cover, Some(Cover::Question)) {
        screen.waiting.unsettle();
    }
    header(frame, screen, setting.theme);
    let mut top = 1;
    if let Some(problem) = trouble(screen) {
        line(frame, row(area, 1), &problem, setting.theme.bad());
        top = 2;
    }
    let middle = Rect { y: area.y + top, height: area.height - top - 1, ..area };
    if screen.cover.is_some() {
        covers::draw(frame, middle, screen, setting);
    } else {
        match screen.view {
            View::Requests => {
                let below = waiting::draw(frame, middle, screen, setting);
                requests::draw(frame, below, screen, setting.theme);
            }
            View::Sandboxes => lists::sandboxes(frame, middle, screen, setting),
            View::Leases => lists::leases(frame, middle, screen, setting),
        }
    }
    footer(frame, screen, setting.theme);
}

/// What there is.
fn header(frame: &mut Frame<'_>, screen: &Screen, theme: Theme) {
    let area = frame.area();
    let (mut allowed, mut denied) = (0, 0);
    for sandbox in screen.store.sandboxes.values() {
        (allowed, denied) = (allowed + sandbox.allowed, denied + sandbox.denied);
    }
    let more: u64 = screen.store.sources.values().map(|known| known.more).sum();
    let sandboxes = screen.store.sandboxes.len() as u64 + more;
    let text = format!(
        " interceptor  {}  {} waiting  {} allowed  {} refused",
        crate::words::count(sandboxes, "sandbox"),
        number(screen.store.questions.len() as u64),
        number(allowed),
        number(denied),
    );
    line(frame, row(area, 0), &text, theme.bar());
}

/// Whoever does not answer and should.
fn trouble(screen: &Screen) -> Option<String> {
    let mut broken = screen.store.sources.values().filter_map(|known| match &known.link {
        Link::Broken(why) if known.is_expected => Some((&known.name, why)),
        _ => None,
    });
    let (name, why) = broken.next()?;
    let more = match broken.count() {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    Some(format!(" {name} does not answer, trying again: {why}{more}"))
}

/// What is said, typed, or can be pressed.
fn footer(frame: &mut Frame<'_>, screen: &Screen, theme: Theme) {
    let area = frame.area();
    let last = row(area, area.height - 1);
    if let Some(prompt) = &screen.prompt {
        let label = match prompt.goal {
            Goal::Filter => "Filter: ",
            Goal::Time(..) => "Approve for how long (30s, 15m, 1h, 2d): ",
            Goal::Uses(..) => "Approve how many requests: ",
        };
        let room = usize::from(area.width).saturating_sub(label.len() + 1);
        let typed = &prompt.text[prompt.text.len().saturating_sub(room)..];
        line(frame, last, &format!("{label}{typed}"), theme.strong());
        let at = u16::try_from(label.len() + typed.len()).unwrap_or(0);
        return frame.set_cursor_position((last.x + at, last.y));
    }
    if let Some((said, is_problem)) = &screen.said {
        let style = if *is_problem { theme.bad() } else { theme.strong() };
        return line(frame, last, &format!(" {said}"), style);
    }
    let text = match (&screen.cover, screen.view) {
        (Some(cover), _) => covers::keys(cover),
        (None, View::Requests) => {
            " 1 2 3 views  Enter story  / d s filter  p pause  ? help  q quit"
        }
        (None, View::Sandboxes) => " 1 requests  3 leases  Enter policy  s its requests  q quit",
        (None, View::Leases) => " 1 requests  2 sandboxes  x revoke  q quit",
    };
    line(frame, last, text, theme.faint());
}
