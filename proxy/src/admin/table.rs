//! Tables for people: a line of names, and columns under each other. For programs there is JSON.

/// At which side the cells of a column stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

/// Lines with the same columns. The last column is not padded.
#[derive(Debug, Clone)]
pub struct Table {
    sides: Vec<Side>,
    /// The names first.
    lines: Vec<Vec<String>>,
}

impl Table {
    /// With columns of these names; `#` before a name: of numbers, which stand at the right.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let column = |name: &'a str| match name.strip_prefix('#') {
            Some(name) => (Side::Right, name.to_owned()),
            None => (Side::Left, name.to_owned()),
        };
        let (sides, names) = names.into_iter().map(column).unzip();
        Self { sides, lines: vec![names] }
    }

    /// One more line. An empty cell is written `-`; no control character of a name that others chose reaches a terminal.
    pub fn line(&mut self, cells: impl IntoIterator<Item = impl ToString>) {
        let shown = |cell: String| {
            let clean: String = cell.chars().filter(|character| !character.is_control()).collect();
            if clean.is_empty() { "-".to_owned() } else { clean }
        };
        self.lines.push(cells.into_iter().map(|cell| shown(cell.to_string())).collect());
    }

    /// As it is printed; nothing at all where there is no line but the names, so that a script may ask whether there is one.
    pub fn text(&self) -> String {
        if self.lines.len() < 2 { String::new() } else { self.with_names() }
    }

    /// The same, with the line of names in any case.
    pub fn with_names(&self) -> String {
        let width = |column: usize| {
            self.lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.sides.len()).map(width).collect();
        let mut text = String::new();
        for line in &self.lines {
            let cells = line.iter().zip(&self.sides).zip(&widths).map(|((cell, side), width)| match side {
                Side::Left => format!("{cell:<width$}"),
                Side::Right => format!("{cell:>width$}"),
            });
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_their_names_and_numbers_at_the_right() {
        let mut table = Table::new(["who", "#jobs", "why"]);
        table.line(["ann", "12", "a\u{1b}[2Jb"]);
        table.line(["élodie", "7", ""]);
        assert_eq!(table.text(), "who     jobs  why\nann       12  a[2Jb\nélodie     7  -\n");
    }

    #[test]
    fn a_table_without_lines_is_nothing_unless_its_names_are_wanted() {
        let table = Table::new(["who", "#jobs"]);
        assert_eq!((table.text().as_str(), table.with_names().as_str()), ("", "who  jobs\n"));
    }
}
