//! The list of requests. What a sandbox chose stands last in a row, so that it moves nothing.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Span;

use super::super::requests::Decisions;
use super::super::screen::Screen;
use super::super::store::Link;
use super::super::text::{Plain, fit, number};
use super::super::theme::Theme;
use super::cells::{column, line, put, row, width};

/// Draws them.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, screen: &mut Screen, theme: Theme) {
    if area.height == 0 {
        return;
    }
    let height = usize::from(area.height - 1);
    screen.room.requests = height;
    screen.requests.settle(height);
    line(frame, row(area, 0), &title(screen), theme.bar());
    let below = Rect { y: area.y + 1, height: area.height - 1, ..area };
    let count = screen.requests.count();
    if count == 0 {
        return nothing(frame, below, screen, theme);
    }
    let first = screen.requests.list.first;
    let seen: Vec<_> = (first..count.min(first + height))
        .filter_map(|place| screen.requests.at(&screen.store, place))
        .collect();
    let names = width(seen.iter().map(|row| &row.sandbox), 4, 20);
    for (at, record) in (0..).zip(&seen) {
        let used = 9 + 8 + names + 1 + 4 + 8;
        let target = fit(&record.subject, usize::from(area.width).saturating_sub(used));
        let (verdict, look) = match record.is_refused {
            true => ("refused", theme.bad()),
            false => ("allowed", theme.good()),
        };
        let spans = vec![
            column(&record.clock, 8),
            column(verdict, 7).style(look),
            column(&record.sandbox, names),
            column(&record.status, 3),
            column(&record.method, 7),
            Span::raw(target),
        ];
        put(frame, below, at, spans);
        if first + usize::from(at) == screen.requests.list.selected {
            frame.buffer_mut().set_style(row(below, at), theme.selected());
        }
    }
}

fn title(screen: &Screen) -> String {
    let requests = &screen.requests;
    let (shown, all) = (requests.count() as u64, screen.store.rows.len() as u64);
    let mut text = format!(" Requests: {}", number(shown));
    if shown != all && !requests.is_paused() {
        text.push_str(&format!(" of {}", number(all)));
    }
    if requests.is_paused() {
        text.push_str(&format!("  PAUSED, {} new", number(requests.held() as u64)));
    }
    match requests.decisions {
        Decisions::All => {}
        Decisions::Refused => text.push_str("  refused only"),
        Decisions::Allowed => text.push_str("  allowed only"),
    }
    if let Some(sandbox) = &requests.sandbox {
        text.push_str(&format!("  of {sandbox}"));
    }
    if !requests.text.is_empty() {
        text.push_str(&format!("  with {:?}", requests.text));
    }
    if screen.store.dropped > 0 {
        text.push_str(&format!("  {} were not shown", number(screen.store.dropped)));
    }
    text
}

fn nothing(frame: &mut Frame<'_>, area: Rect, screen: &Screen, theme: Theme) {
    let is_live = screen.store.sources.values().any(|known| matches!(known.link, Link::Live));
    let lines: &[&str] = if !screen.store.rows.is_empty() {
        &["No request passes the filter. Esc clears it."]
    } else if is_live {
        &["Nothing yet. Requests appear here as they end."]
    } else {
        &[
            "You have no run, and no daemon answers. What you start appears here:",
            "  interceptor run --policy policy.json -- my-agent",
            "  sudo interceptor serve",
            "A daemon's sandboxes are root's to see: sudo interceptor top",
        ]
    };
    for (at, text) in (1..).zip(lines) {
        line(frame, row(area, at), &Plain::of(&format!("  {text}")), theme.faint());
    }
}
