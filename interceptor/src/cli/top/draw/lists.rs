//! Sandboxes, with the chart of the last minutes, and leases.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::Span;

use super::super::screen::Screen;
use super::super::store::BUCKETS;
use super::super::text::{Plain, fit, left, number};
use super::super::theme::Theme;
use super::cells::{Setting, column, line, put, row, width};

/// How much a bucket of the chart has, from nothing to the most.
const SHADES: &[u8] = b" .:-=+*#%@";

/// Draws the sandboxes.
pub(super) fn sandboxes(frame: &mut Frame<'_>, area: Rect, screen: &mut Screen, setting: Setting) {
    let below = chart(frame, area, screen, setting);
    let keys = screen.store.sandbox_keys();
    let height = usize::from(below.height.saturating_sub(1));
    screen.room.list = height;
    screen.sandboxes.settle(&keys, height);
    let names: Vec<Plain> = keys.iter().map(|(_, id)| Plain::of(id)).collect();
    let (name_width, cells) = (width(names.iter(), 7, 24), usize::from(below.width));
    let heading = format!("{} {:>9} {:>8} ", fit("SANDBOX", name_width), "ALLOWED", "REFUSED");
    let rest = "WAITING  WHAT";
    line(frame, row(below, 0), &format!("{heading}{rest}"), setting.theme.bar());
    let first = screen.sandboxes.list.first;
    for (at, index) in (1..below.height).zip(first..keys.len()) {
        let Some(sandbox) = screen.store.sandboxes.get(&keys[index]) else { continue };
        let own = screen.store.questions.iter();
        let waiting = own.filter(|(key, one)| key.0 == keys[index].0 && one.sandbox == sandbox.id);
        let about = match (sandbox.user.is_empty(), sandbox.policy.is_empty()) {
            (true, true) => sandbox.about.to_string(),
            (true, false) => format!("{}  {}", sandbox.about, sandbox.policy),
            (false, _) => format!("{}: {}  {}", sandbox.user, sandbox.about, sandbox.policy),
        };
        let refused = if sandbox.denied > 0 { setting.theme.bad() } else { Style::new() };
        let used = name_width + 1 + 10 + 9 + 9;
        let spans = vec![
            column(&names[index], name_width),
            Span::raw(format!("{:>9} ", number(sandbox.allowed))),
            Span::styled(format!("{:>8} ", number(sandbox.denied)), refused),
            Span::raw(format!("{:<8} ", waiting.count())),
            Span::raw(fit(&about, cells.saturating_sub(used))),
        ];
        put(frame, below, at, spans);
        if index == screen.sandboxes.list.selected {
            frame.buffer_mut().set_style(row(below, at), setting.theme.selected());
        }
    }
}

/// Draws the last ten minutes; returns the room below.
fn chart(frame: &mut Frame<'_>, area: Rect, screen: &Screen, setting: Setting) -> Rect {
    let buckets = screen.store.chart(setting.time);
    let shaded = |which: usize| -> String {
        let most = buckets.iter().map(|counts| counts[which]).max().unwrap_or(0).max(1);
        let last = SHADES.len() as u64 - 1;
        let shade = |count: u64| SHADES[(count * last).div_ceil(most) as usize] as char;
        buckets.iter().map(|counts| shade(counts[which])).collect()
    };
    let theme: Theme = setting.theme;
    for (at, which, name, look) in [(0, 0, "Allowed", theme.good()), (1, 1, "Refused", theme.bad())]
    {
        let most = buckets.iter().map(|counts| counts[which]).max().unwrap_or(0);
        let chart = Span::styled(fit(&shaded(which), BUCKETS), look);
        put(frame, area, at, vec![column(name, 8), chart, Span::raw(format!(" {}", number(most)))]);
    }
    let scale = format!("{:9}10 minutes ago{:>46}  most/10 s", "", "now");
    line(frame, row(area, 2), &scale, theme.faint());
    Rect { y: area.y + 3, height: area.height.saturating_sub(3), ..area }
}

/// Draws the leases.
pub(super) fn leases(frame: &mut Frame<'_>, area: Rect, screen: &mut Screen, setting: Setting) {
    let keys = screen.store.lease_keys();
    let height = usize::from(area.height.saturating_sub(1));
    screen.room.list = height;
    screen.leases.settle(&keys, height);
    let leases = screen.store.leases();
    let names: Vec<Plain> = leases.iter().map(|(_, lease)| Plain::of(&lease.sandbox)).collect();
    let name_width = width(names.iter(), 7, 20);
    let columns = ["UNTIL", "USES", "BY"].map(|name| fit(name, 10)).join(" ");
    let heading = format!("{} {columns} PERMITS", fit("SANDBOX", name_width));
    line(frame, row(area, 0), &heading, setting.theme.bar());
    if leases.is_empty() {
        let text = "  Nothing is permitted beside the policies.";
        return line(frame, row(area, 1), text, setting.theme.faint());
    }
    let first = screen.leases.list.first;
    for (at, index) in (1..area.height).zip(first..leases.len()) {
        let lease = leases[index].1;
        let until = lease.until.map(|until| left(until, setting.time)).unwrap_or_default();
        let uses = lease.uses.map(|uses| format!("{uses} left")).unwrap_or_default();
        let used = name_width + 1 + 33;
        let spans = vec![
            column(&names[index], name_width),
            column(&until, 10),
            column(&uses, 10),
            column(&lease.by, 10),
            Span::raw(fit(&lease.edit, usize::from(area.width).saturating_sub(used))),
        ];
        put(frame, area, at, spans);
        if index == screen.leases.list.selected {
            frame.buffer_mut().set_style(row(area, at), setting.theme.selected());
        }
    }
}
