//! What all parts of the screen are drawn with: rows, columns, and how they look.

use std::time::Instant;

use jiff::Timestamp;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::super::text::{Plain, fit};
use super::super::theme::Theme;

/// When it is drawn, and how it looks.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli::top) struct Setting {
    pub(in crate::cli::top) theme: Theme,
    pub(in crate::cli::top) now: Instant,
    pub(in crate::cli::top) time: Timestamp,
}

/// One row of an area.
pub(super) fn row(area: Rect, at: u16) -> Rect {
    Rect { y: area.y + at.min(area.height.saturating_sub(1)), height: 1, ..area }
}

/// A whole row of one look.
pub(super) fn line(frame: &mut Frame<'_>, area: Rect, text: &str, style: Style) {
    let text = fit(text, area.width.into());
    put(frame, area, 0, vec![Span::styled(text, style)]);
}

/// A row of an area.
pub(super) fn put(frame: &mut Frame<'_>, area: Rect, at: u16, spans: Vec<Span<'_>>) {
    if at < area.height {
        frame.render_widget(Line::from(spans), row(area, at));
    }
}

/// A column: a text of exactly this width, and a space.
pub(super) fn column(text: &str, width: usize) -> Span<'static> {
    Span::raw(format!("{} ", fit(text, width)))
}

/// The width that a column needs for these, within bounds.
pub(super) fn width<'a>(
    texts: impl Iterator<Item = &'a Plain>,
    least: usize,
    most: usize,
) -> usize {
    texts.map(|text| text.len()).max().unwrap_or(0).clamp(least, most)
}
