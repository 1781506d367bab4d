//! Small text tables.

use std::io::{self, Write};

use super::policy_file::printable;

/// Prints rows under a heading with fitted columns; cells are escaped for terminals. The columns in
/// `right` are right-aligned.
pub(super) fn print(
    out: &mut dyn Write,
    heading: &[&str],
    rows: &[Vec<String>],
    right: &[usize],
) -> io::Result<()> {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(heading.get(column).map(|name| name.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let mut print = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (column, (cell, width)) in cells.zip(&widths).enumerate() {
            let gap = " ".repeat(width.saturating_sub(cell.chars().count()));
            let (before, after) =
                if right.contains(&column) { (gap.as_str(), "") } else { ("", gap.as_str()) };
            line.push_str(&format!("{before}{cell}{after}  "));
        }
        writeln!(out, "{}", line.trim_end())
    };
    print(&mut heading.iter().copied())?;
    rows.iter().try_for_each(|row| print(&mut row.iter().map(String::as_str)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn o2_a_table_stands_in_columns_and_no_cell_steers_the_terminal() {
        let mut out = Vec::new();
        let rows =
            [vec!["a".to_owned(), "7".to_owned()], vec!["\u{1b}[2J\n".to_owned(), "12".to_owned()]];
        super::print(&mut out, &["NAME", "COUNT"], &rows, &[1]).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "NAME            COUNT\na                   7\n\\u{1b}[2J\\u{a}     12\n");
    }
}
