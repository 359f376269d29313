//! The table that is printed.

use std::fmt;

/// Rows of what was measured.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<[String; 3]>);

impl Table {
    /// Adds a row.
    pub(crate) fn row(&mut self, what: &str, figure: String, target: impl Into<String>) {
        self.0.push([what.to_owned(), figure, target.into()]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| What | Measured | Target |\n|---|---|---|")?;
        for [what, figure, target] in &self.0 {
            writeln!(f, "| {what} | {figure} | {target} |")?;
        }
        Ok(())
    }
}
