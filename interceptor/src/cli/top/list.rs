//! A list that is looked at through a window: which entry is selected, and which is the first that
//! is seen.

/// Where the selection and the window are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct List {
    /// The selected entry.
    pub(super) selected: usize,
    /// The first entry that is seen.
    pub(super) first: usize,
}

/// How the selection moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
}

impl List {
    /// Moves the selection in so many entries, of which `height` are seen.
    pub(super) fn go(&mut self, to: Move, count: usize, height: usize) {
        let last = count.saturating_sub(1);
        let page = height.saturating_sub(1).max(1);
        self.selected = match to {
            Move::Up => self.selected.saturating_sub(1),
            Move::Down => self.selected.saturating_add(1),
            Move::PageUp => self.selected.saturating_sub(page),
            Move::PageDown => self.selected.saturating_add(page),
            Move::Home => 0,
            Move::End => last,
        }
        .min(last);
    }

    /// Moves the window so that it shows the selection and has no room below the last entry.
    pub(super) fn settle(&mut self, count: usize, height: usize) {
        let height = height.max(1);
        self.selected = self.selected.min(count.saturating_sub(1));
        if self.selected < self.first {
            self.first = self.selected;
        } else if self.selected >= self.first + height {
            self.first = self.selected + 1 - height;
        }
        self.first = self.first.min(count.saturating_sub(height));
    }

    /// Scrolls a text of so many lines, in which nothing is selected.
    pub(super) fn scroll(&mut self, to: Move, count: usize, height: usize) {
        let most = count.saturating_sub(height);
        let page = height.saturating_sub(1).max(1);
        self.first = match to {
            Move::Up => self.first.saturating_sub(1),
            Move::Down => self.first.saturating_add(1),
            Move::PageUp => self.first.saturating_sub(page),
            Move::PageDown => self.first.saturating_add(page),
            Move::Home => 0,
            Move::End => most,
        }
        .min(most);
    }
}

/// A list of which one entry is picked, by what it is called.
#[derive(Debug)]
pub(super) struct Picked<K> {
    /// Where it is.
    pub(super) list: List,
    picked: Option<K>,
}

impl<K> Default for Picked<K> {
    fn default() -> Picked<K> {
        Picked { list: List::default(), picked: None }
    }
}

impl<K: Clone + PartialEq> Picked<K> {
    /// Picks another of these.
    pub(super) fn go(&mut self, to: Move, all: &[K], height: usize) {
        self.list.go(to, all.len(), height);
        self.picked = all.get(self.list.selected).cloned();
    }

    /// Finds what is picked among these again; the one at its place if it is gone.
    pub(super) fn settle(&mut self, all: &[K], height: usize) {
        let known = self.picked.as_ref();
        if let Some(at) = known.and_then(|known| all.iter().position(|one| one == known)) {
            self.list.selected = at;
        }
        self.list.settle(all.len(), height);
        self.picked = all.get(self.list.selected).cloned();
    }

    /// What is picked.
    pub(super) fn picked(&self) -> Option<&K> {
        self.picked.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_picked_stays_so_while_others_come_and_go() {
        let mut picked = Picked::default();
        picked.settle(&["b", "d"], 5);
        picked.go(Move::Down, &["b", "d"], 5);
        picked.settle(&["a", "b", "c", "d"], 5);
        assert_eq!((picked.picked(), picked.list.selected), (Some(&"d"), 3));
        picked.settle(&["a"], 5);
        assert_eq!(picked.picked(), Some(&"a"));
        picked.settle(&[], 5);
        assert_eq!(picked.picked(), None);
    }

    #[test]
    fn the_window_follows_the_selection_and_neither_leaves_the_list() {
        let mut list = List::default();
        for (to, selected, first) in [
            (Move::Up, 0, 0),
            (Move::Down, 1, 0),
            (Move::PageDown, 5, 1),
            (Move::End, 9, 5),
            (Move::Down, 9, 5),
            (Move::PageUp, 5, 5),
            (Move::Up, 4, 4),
            (Move::Home, 0, 0),
        ] {
            list.go(to, 10, 5);
            list.settle(10, 5);
            assert_eq!((list.selected, list.first), (selected, first), "{to:?}");
        }
        list = List { selected: 9, first: 5 };
        list.settle(2, 5);
        assert_eq!((list.selected, list.first), (1, 0));
        list.settle(0, 0);
        assert_eq!((list.selected, list.first), (0, 0));
        list.go(Move::End, 0, 5);
        assert_eq!(list.selected, 0);
        list.scroll(Move::End, 10, 4);
        assert_eq!(list.first, 6);
        list.scroll(Move::PageUp, 10, 4);
        assert_eq!(list.first, 3);
    }
}
