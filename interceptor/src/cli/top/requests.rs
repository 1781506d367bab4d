//! The list of requests, the newest on top: which pass the filter, which one is selected, and
//! whether the list stands still.

use std::collections::VecDeque;

use super::list::{List, Move};
use super::store::{Row, Store};
use super::text::Plain;

/// Which decisions are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Decisions {
    #[default]
    All,
    Refused,
    Allowed,
}

/// The list.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// The numbers of the rows that pass the filter, oldest first.
    passing: VecDeque<u64>,
    /// What a row has, in lower case.
    pub(super) text: String,
    /// Whose rows are shown.
    pub(super) sandbox: Option<Plain>,
    /// Which decisions.
    pub(super) decisions: Decisions,
    /// The number of the selected row; the newest if there is none.
    selected: Option<u64>,
    /// The newest row, while the list stands still.
    paused_at: Option<u64>,
    /// Where the window is, counted from the newest.
    pub(super) list: List,
}

impl Requests {
    /// Takes as many new rows as the store has at its end.
    pub(super) fn add(&mut self, store: &Store, count: usize) {
        let fresh = store.rows.range(store.rows.len().saturating_sub(count)..);
        let passing: Vec<u64> =
            fresh.filter(|row| self.passes(row)).map(|row| row.number).collect();
        self.passing.extend(passing);
        self.forget(store);
    }

    fn forget(&mut self, store: &Store) {
        let first = store.rows.front().map_or(u64::MAX, |row| row.number);
        while self.passing.front().is_some_and(|number| *number < first) {
            self.passing.pop_front();
        }
    }

    fn passes(&self, row: &Row) -> bool {
        let by_decision = match self.decisions {
            Decisions::All => true,
            Decisions::Refused => row.is_refused,
            Decisions::Allowed => !row.is_refused,
        };
        by_decision
            && self.sandbox.as_ref().is_none_or(|sandbox| *sandbox == row.sandbox)
            && (self.text.is_empty() || row.has(&self.text))
    }

    /// Filters anew.
    pub(super) fn refilter(&mut self, store: &Store) {
        let passing = store.rows.iter().filter(|row| self.passes(row)).map(|row| row.number);
        self.passing = passing.collect();
        self.list.first = 0;
        let stays = self.selected.is_some_and(|number| self.passing.binary_search(&number).is_ok());
        if !stays {
            self.selected = None;
        }
    }

    /// Whether the list stands still.
    pub(super) fn is_paused(&self) -> bool {
        self.paused_at.is_some()
    }

    /// Holds the list still, or lets it go on.
    pub(super) fn pause(&mut self, store: &Store) {
        self.paused_at = match self.paused_at {
            Some(_) => None,
            None => Some(store.rows.back().map_or(0, |row| row.number)),
        };
    }

    /// How many rows pass, of those that are shown.
    pub(super) fn count(&self) -> usize {
        match self.paused_at {
            None => self.passing.len(),
            Some(last) => self.passing.partition_point(|number| *number <= last),
        }
    }

    /// How many pass and are not shown while the list stands still.
    pub(super) fn held(&self) -> usize {
        self.passing.len() - self.count()
    }

    /// The row at this place, counted from the newest.
    pub(super) fn at<'a>(&self, store: &'a Store, place: usize) -> Option<&'a Row> {
        let index = self.count().checked_sub(place + 1)?;
        store.row(*self.passing.get(index)?)
    }

    /// The place of the selected row.
    fn place(&self) -> Option<usize> {
        let index = self.passing.binary_search(&self.selected?).ok()?;
        self.count().checked_sub(index + 1)
    }

    /// The selected row.
    pub(super) fn selected<'a>(&self, store: &'a Store) -> Option<&'a Row> {
        self.at(store, self.list.selected)
    }

    /// Moves the selection. What is selected stays so while new rows come; at the top, the newest
    /// is.
    pub(super) fn go(&mut self, store: &Store, to: Move, height: usize) {
        self.list.go(to, self.count(), height);
        let row = self.at(store, self.list.selected);
        self.selected = row.map(|row| row.number).filter(|_| self.list.selected > 0);
    }

    /// Finds the selected row again, and the window around it.
    pub(super) fn settle(&mut self, height: usize) {
        let before = self.list.selected;
        match self.place() {
            Some(place) => {
                self.list.selected = place;
                // What is looked at stays where it is.
                self.list.first = (self.list.first + place).saturating_sub(before);
            }
            None => {
                self.selected = None;
                self.list.selected = 0;
            }
        }
        self.list.settle(self.count(), height);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::{Value, json};

    use super::super::heard::Heard;
    use super::super::store::MOST;
    use super::*;

    fn records(from: usize, count: usize) -> Heard {
        let of = |number: usize| -> Value {
            json!({ "ts": "2026-01-01T00:00:00Z", "id": number.to_string(), "kind": "request",
                    "decision": if number.is_multiple_of(2) { "allow" } else { "deny" },
                    "sandbox": if number.is_multiple_of(3) { "web" } else { "ci" },
                    "host": format!("h{number}.test"), "port": 443, "path": "/", "method": "GET" })
        };
        Heard::Records((from..from + count).map(of).collect())
    }

    fn add(store: &mut Store, requests: &mut Requests, from: usize, count: usize) {
        let fresh = store.hear(1, records(from, count), Instant::now());
        requests.add(store, fresh);
    }

    fn begin() -> (Store, Requests) {
        let mut store = Store::default();
        store.add(1, Plain::of("daemon"), true);
        (store, Requests::default())
    }

    #[test]
    fn the_selected_row_stays_while_others_come_and_the_newest_stays_on_top() {
        let (mut store, mut requests) = begin();
        add(&mut store, &mut requests, 0, 10);
        requests.settle(5);
        let subject = |requests: &Requests, store: &Store| {
            requests.selected(store).unwrap().subject.to_string()
        };
        assert_eq!(subject(&requests, &store), "h9.test/");
        add(&mut store, &mut requests, 10, 1);
        requests.settle(5);
        assert_eq!(subject(&requests, &store), "h10.test/", "the newest is");
        requests.go(&store, Move::Down, 5);
        add(&mut store, &mut requests, 11, 20);
        requests.settle(5);
        assert_eq!(subject(&requests, &store), "h9.test/");
        assert_eq!((requests.list.selected, requests.list.first), (21, 20));
        requests.go(&store, Move::Home, 5);
        requests.settle(5);
        assert_eq!(subject(&requests, &store), "h30.test/");
    }

    #[test]
    fn a_filter_shows_what_passes_and_goes_on_with_what_comes() {
        let (mut store, mut requests) = begin();
        add(&mut store, &mut requests, 0, 30);
        requests.decisions = Decisions::Refused;
        requests.sandbox = Some(Plain::of("web"));
        requests.refilter(&store);
        assert_eq!(requests.count(), 5);
        add(&mut store, &mut requests, 30, 6);
        assert_eq!(requests.count(), 6);
        requests.text = "h33".to_owned();
        requests.refilter(&store);
        assert_eq!((requests.count(), requests.at(&store, 0).unwrap().number), (1, 33));
        requests.text = "nothing".to_owned();
        requests.refilter(&store);
        requests.settle(5);
        assert!(requests.selected(&store).is_none());
    }

    #[test]
    fn a_pause_holds_what_is_shown() {
        let (mut store, mut requests) = begin();
        add(&mut store, &mut requests, 0, 5);
        requests.pause(&store);
        add(&mut store, &mut requests, 5, 7);
        assert_eq!((requests.count(), requests.held()), (5, 7));
        assert_eq!(requests.at(&store, 0).unwrap().number, 4);
        requests.pause(&store);
        assert_eq!((requests.count(), requests.held()), (12, 0));
    }

    #[test]
    fn what_is_not_kept_is_not_shown() {
        let (mut store, mut requests) = begin();
        add(&mut store, &mut requests, 0, MOST);
        requests.go(&store, Move::End, 5);
        add(&mut store, &mut requests, MOST, 10);
        requests.settle(5);
        assert_eq!(requests.count(), MOST);
        assert_eq!(requests.list.selected, 0, "the selected one is gone");
    }
}
