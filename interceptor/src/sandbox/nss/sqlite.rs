//! Writes an SQLite database of a few small tables (<https://www.sqlite.org/fileformat.html>), each
//! a single leaf page.

/// One page size: a certificate and its schema fit easily.
const PAGE: usize = 16 << 10;
const HEADER: usize = 100;
const TABLE_LEAF: u8 = 0x0d;
const INDEX_LEAF: u8 = 0x0a;
/// The SQLite version named as the writer; informational.
const WRITER: u32 = 3_040_000;

/// A column's value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Null,
    Number(u8),
    Text(&'a str),
    Blob(&'a [u8]),
}

/// A leaf page: its kind and cells.
#[derive(Debug)]
pub(super) struct Page {
    kind: u8,
    cells: Vec<Vec<u8>>,
}

impl Page {
    /// A table with these rows, numbered from 1.
    pub(super) fn table(rows: &[Vec<Value<'_>>]) -> Self {
        let cell = |(number, row): (u64, &Vec<Value<'_>>)| {
            let record = record(row);
            [variable(record.len() as u64), variable(number), record].concat()
        };
        Page { kind: TABLE_LEAF, cells: (1..).zip(rows).map(cell).collect() }
    }

    /// An index of a table without rows.
    pub(super) fn empty_index() -> Self {
        Page { kind: INDEX_LEAF, cells: vec![] }
    }

    /// Encodes it, leaving the first `reserved` bytes to the file header. `None` if it does not
    /// fit.
    fn bytes(&self, reserved: usize) -> Option<Vec<u8>> {
        let mut page = vec![0; PAGE];
        let mut end = PAGE;
        let mut offsets = Vec::new();
        for cell in &self.cells {
            // Longer cells would need overflow pages.
            let start = end.checked_sub(cell.len()).filter(|_| cell.len() <= PAGE - 35 - 18)?;
            page[start..end].copy_from_slice(cell);
            end = start;
            offsets.extend(u16::try_from(start).ok()?.to_be_bytes());
        }
        let count = u16::try_from(self.cells.len()).ok()?;
        let mut head = vec![self.kind, 0, 0];
        head.extend(count.to_be_bytes());
        head.extend(u16::try_from(end).ok()?.to_be_bytes());
        head.push(0);
        head.extend(offsets);
        (reserved + head.len() <= end).then_some(())?;
        page[reserved..reserved + head.len()].copy_from_slice(&head);
        Some(page)
    }
}

/// The schema row (page 1) of a table on page `root`.
pub(super) fn table<'a>(name: &'a str, root: u8, statement: &'a str) -> Vec<Value<'a>> {
    vec![
        Value::Text("table"),
        Value::Text(name),
        Value::Text(name),
        Value::Number(root),
        Value::Text(statement),
    ]
}

/// The schema row of the index `name` that SQLite itself creates for a key of `table`, on page
/// `root`.
pub(super) fn index<'a>(name: &'a str, table: &'a str, root: u8) -> Vec<Value<'a>> {
    vec![
        Value::Text("index"),
        Value::Text(name),
        Value::Text(table),
        Value::Number(root),
        Value::Null,
    ]
}

/// The file of these pages, the first of which is the schema.
pub(super) fn file(pages: &[Page]) -> Option<Vec<u8>> {
    let mut file = Vec::with_capacity(pages.len() * PAGE);
    for (index, page) in pages.iter().enumerate() {
        file.extend(page.bytes(if index == 0 { HEADER } else { 0 })?);
    }
    let count = u32::try_from(pages.len()).ok()?;
    file[..HEADER].copy_from_slice(&header(count));
    Some(file)
}

fn header(pages: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..16].copy_from_slice(b"SQLite format 3\0");
    header[16..18].copy_from_slice(&(PAGE as u16).to_be_bytes());
    // Rollback journal for reading and writing; no reserved bytes; three fixed payload fractions.
    header[18..24].copy_from_slice(&[1, 1, 0, 64, 32, 32]);
    let mut number =
        |at: usize, value: u32| header[at..at + 4].copy_from_slice(&value.to_be_bytes());
    // Change counter, page count, schema version and format, UTF-8, version-valid-for, the writer.
    for (at, value) in [(24, 1), (28, pages), (40, 1), (44, 4), (56, 1), (92, 1), (96, WRITER)] {
        number(at, value);
    }
    header
}

/// Encodes a row: the column types, then the values.
fn record(values: &[Value<'_>]) -> Vec<u8> {
    let (mut types, mut body) = (Vec::new(), Vec::new());
    for value in values {
        let (kind, bytes) = match value {
            Value::Null => (0, &[][..]),
            Value::Number(number) => (1, std::slice::from_ref(number)),
            Value::Text(text) => (13 + 2 * text.len() as u64, text.as_bytes()),
            Value::Blob(bytes) => (12 + 2 * bytes.len() as u64, *bytes),
        };
        types.extend(variable(kind));
        body.extend(bytes);
    }
    // The length includes itself.
    let short = types.len() as u64 + 1;
    let length = if short < 128 { short } else { short + 1 };
    [variable(length), types, body].concat()
}

/// A varint: groups of seven bits, most significant first, the top bit set in all but the last.
fn variable(mut number: u64) -> Vec<u8> {
    let mut bytes = vec![(number & 0x7f) as u8];
    number >>= 7;
    while number > 0 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.reverse();
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_sqlite_does() {
        assert_eq!(variable(0), [0]);
        assert_eq!(variable(127), [127]);
        assert_eq!(variable(128), [0x81, 0]);
        assert_eq!(variable(16_384), [0x81, 0x80, 0]);
    }

    #[test]
    fn a_row_is_its_types_and_its_values() {
        let row =
            record(&[Value::Null, Value::Number(7), Value::Text("ab"), Value::Blob(&[1, 2, 3])]);
        assert_eq!(row, [5, 0, 1, 17, 18, 7, b'a', b'b', 1, 2, 3]);
    }

    #[test]
    fn what_does_not_fit_on_a_page_is_refused() {
        let large = vec![0; PAGE];
        assert!(file(&[Page::table(&[vec![Value::Blob(&large)]])]).is_none());
        let half = vec![0; PAGE / 2 - 10];
        let rows = [vec![Value::Blob(&half)], vec![Value::Blob(&half)], vec![Value::Blob(&half)]];
        assert!(file(&[Page::table(&rows)]).is_none());
    }
}
