//! A Markdown table that is also readable on a terminal: a row for each measure, a column for each
//! contender.

use crate::measure::spread::Spread;

/// A table under construction.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns after the first, which holds the titles of the rows.
    pub fn new<'a>(columns: impl IntoIterator<Item = &'a str>) -> Table {
        let head =
            std::iter::once(String::new()).chain(columns.into_iter().map(str::to_owned)).collect();
        Table { rows: vec![head] }
    }

    /// Adds a row: its title and its cells.
    pub fn row(&mut self, name: &str, cells: impl IntoIterator<Item = String>) {
        self.rows.push(std::iter::once(name.to_owned()).chain(cells).collect());
    }

    /// The text.
    pub fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
        let width = |column: usize| {
            self.rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0).max(3)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            for (column, width) in widths.iter().enumerate() {
                // Align names left and numbers right.
                text += &match column {
                    0 => format!("| {:<width$} ", cell(row, column)),
                    _ => format!("| {:>width$} ", cell(row, column)),
                };
            }
            text += "|\n";
            if number == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let (dashes, end) =
                        ("-".repeat(width - 1), if column == 0 { "-" } else { ":" });
                    text += &format!("| {dashes}{end} ");
                }
                text += "|\n";
            }
        }
        text
    }
}

/// A cell: the median, with the minimum and maximum in parentheses, or a dash without samples.
pub fn cell(spread: Option<&Spread>) -> String {
    let Some(spread) = spread else { return "–".to_owned() };
    let digits = digits(spread.max);
    let number = |value: f64| format!("{value:.digits$}");
    let (median, min, max) = (number(spread.median), number(spread.min), number(spread.max));
    if min == max { median } else { format!("{median} ({min}–{max})") }
}

/// A cell with the median alone.
pub fn median(spread: Option<&Spread>) -> String {
    let number = |spread: &Spread| format!("{:.*}", digits(spread.median), spread.median);
    spread.map_or_else(|| "–".to_owned(), number)
}

/// A cell with one value, or a dash without.
pub fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.*}", digits(value)))
}

/// The number of decimals for about three significant digits.
fn digits(value: f64) -> usize {
    match value.abs() {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_markdown_with_aligned_columns() {
        let mut table = Table::new(["direct", "ours"]);
        table.row("CPU s/10,000", ["–".to_owned(), "0.63 (0.60–0.66)".to_owned()]);
        table.row("p50 ms", ["0.1".to_owned()]);
        let text = "\
|              | direct |             ours |
| ------------ | -----: | ---------------: |
| CPU s/10,000 |      – | 0.63 (0.60–0.66) |
| p50 ms       |    0.1 |                  |
";
        assert_eq!(table.text(), text);
    }

    #[test]
    fn a_cell_has_the_median_and_its_bounds() {
        let shown = |samples: &[f64]| cell(Spread::of(samples).as_ref());
        assert_eq!(shown(&[0.634, 0.6, 0.66]), "0.63 (0.60–0.66)");
        assert_eq!(shown(&[9.0, 11.0, 14.23]), "11.0 (9.0–14.2)");
        assert_eq!(shown(&[2500.4, 100.0, 31000.0]), "2500 (100–31000)");
        assert_eq!(shown(&[0.5]), "0.50");
        assert_eq!(shown(&[]), "–");
        assert_eq!(median(Spread::of(&[9.0, 11.04, 140.0]).as_ref()), "11.0");
        assert_eq!(median(None), "–");
        assert_eq!((number(Some(12.345)), number(None)), ("12.3".to_owned(), "–".to_owned()));
    }
}
