//! What is wrong with a configuration, and where.

use std::{fmt, path::Path as FilePath};

use moltbot_settings::{Path, locate::Position};

use super::document::Documents;

/// Something wrong or odd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// The way to the value, such as `gateway.port`; empty for a whole file.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
    /// `file:line:column`, as far as it is known.
    pub place: Option<String>,
    way: Path,
}

impl Issue {
    pub(super) fn at(way: &Path, message: impl Into<String>) -> Self {
        Self { path: way.to_string(), message: message.into(), place: None, way: way.clone() }
    }

    pub(super) fn about_file(file: &FilePath, message: impl Into<String>) -> Self {
        Self::in_text(file, None, message)
    }

    pub(super) fn in_text(
        file: &FilePath,
        position: Option<Position>,
        message: impl Into<String>,
    ) -> Self {
        let place = Some(place(file, position));
        Self { path: String::new(), message: message.into(), place, way: Path::default() }
    }

    /// Finds the value in its file.
    pub(super) fn locate(&mut self, documents: &Documents) {
        if self.place.is_none()
            && let Some((file, position)) = documents.position(&self.way)
        {
            self.place = Some(place(file, Some(position)));
        }
    }
}

fn place(file: &FilePath, position: Option<Position>) -> String {
    let file = file.display();
    position.map_or_else(
        || file.to_string(),
        |Position { line, column }| format!("{file}:{line}:{column}"),
    )
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.place.iter().chain((!self.path.is_empty()).then_some(&self.path)) {
            write!(f, "{part}: ")?;
        }
        f.write_str(&self.message)
    }
}
