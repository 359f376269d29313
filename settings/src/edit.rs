//! Edits of a JSON5 text that keep comments, order and everything else.

use std::fmt;

use jsonc_parser::{
    ParseOptions,
    cst::{CstArray, CstInputValue, CstNode, CstObject, CstObjectProp, CstRootNode},
};
use serde_json::{Map, Value};

use crate::locate::{self, Path, Position, Step};

/// What an empty or missing file counts as.
const EMPTY: &str = "{}\n";
/// Longest value that is added to a line.
const LONGEST_ON_A_LINE: usize = 60;
const BYTE_ORDER_MARK: char = '\u{feff}';

/// One change of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It becomes this; what is missing on the way to it is made.
    Set(Path, Value),
    /// It goes, if it is there.
    Unset(Path),
}

impl Change {
    /// Returns the way to the value.
    #[must_use]
    pub const fn path(&self) -> &Path {
        match self {
            Self::Set(path, _) | Self::Unset(path) => path,
        }
    }
}

/// Why a text cannot be edited.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// It is no JSON5.
    #[error("{}not JSON5: {message}", at(*.position))]
    Syntax {
        /// Where the parser stopped.
        position: Option<Position>,
        /// What it said.
        message: String,
    },
    /// Values are nested too deeply.
    #[error("nested deeper than {} levels", locate::DEEPEST)]
    TooDeep,
    /// The outermost value is no object.
    #[error("the file must hold an object: {{ … }}")]
    NoObject,
    /// What is on the way cannot hold the rest of it.
    #[error("{path} is {found}, so it has no {wanted}")]
    NoContainer {
        /// The way to it.
        path: String,
        /// What it is.
        found: &'static str,
        /// The step that is not possible.
        wanted: String,
    },
    /// A list would get a gap.
    #[error("{path} has {length} items, so {index} cannot be set; the next one is {length}")]
    Gap {
        /// The way to the list.
        path: String,
        /// How long it is.
        length: usize,
        /// Which item was meant.
        index: usize,
    },
    /// The text is written in a way that edits do not understand.
    #[error("this file cannot be edited by a program ({0}); change it with an editor")]
    Odd(String),
}

fn at(position: Option<Position>) -> impl fmt::Display {
    position.map_or_else(String::new, |at| format!("{at}: "))
}

/// Reads a JSON5 text. Blank text is an empty object.
///
/// # Errors
///
/// When it is none, with the line and column.
pub fn parse(text: &str) -> Result<Value, EditError> {
    if text.trim_start_matches(BYTE_ORDER_MARK).trim().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    if locate::is_too_deep(text) {
        return Err(EditError::TooDeep);
    }
    json5::from_str(text).map_err(|error| EditError::Syntax {
        position: error.position().map(|at| Position { line: at.line + 1, column: at.column + 1 }),
        message: error.code().map_or_else(|| error.to_string(), |code| code.to_string()),
    })
}

/// Applies changes to a text, one after the other. What they do not concern
/// stays byte for byte; the result says exactly what was asked for.
///
/// # Errors
///
/// When the text cannot be read, or a change is not possible.
pub fn apply(text: &str, changes: &[Change]) -> Result<String, EditError> {
    let mut value = parse(text)?;
    if !value.is_object() {
        return Err(EditError::NoObject);
    }
    let mut text = text.to_owned();
    for change in changes {
        let before = value.clone();
        change_value(&mut value, change)?;
        if value == before {
            continue;
        }
        text = match on_its_line(&text, &before, change) {
            Some(edited) => edited,
            None => in_its_lines(&text, change)?,
        };
        // The form is found by looking; the meaning is made sure of.
        if parse(&text).ok().as_ref() != Some(&value) {
            return Err(EditError::Odd("its meaning would change elsewhere".into()));
        }
    }
    Ok(text)
}

/// Adds to an object or a list that stands on one line, if that is the change.
fn on_its_line(text: &str, before: &Value, change: &Change) -> Option<String> {
    let Change::Set(path, new) = change else { return None };
    let depth =
        (0..path.0.len()).rev().find(|depth| get(before, &up_to(path, *depth)).is_some())?;
    let around_it = up_to(path, depth);
    let members = match (get(before, &around_it)?, &path.0[depth]) {
        (Value::Object(members), Step::Key(key)) if !members.contains_key(key) => members.len(),
        (Value::Array(items), step) if index_of(step)? == items.len() => items.len(),
        _ => return None,
    };
    let spots = locate::spots(text)?;
    let outer = spots.iter().rev().find(|spot| spot.path == around_it)?;
    let last = spots
        .iter()
        .rev()
        .find(|spot| up_to(&spot.path, depth) == around_it && spot.path.0.len() == depth + 1)?;
    let value = around(&path.0[depth + 1..], new).to_string();
    let line = &text[outer.bytes.clone()];
    if members == 0 || line.contains(['\n', '\r']) || value.len() > LONGEST_ON_A_LINE {
        return None;
    }
    let added = match &path.0[depth] {
        Step::Key(key) if get(before, &around_it)?.is_object() => {
            let quoted = text[last.start..].starts_with(['"', '\'']) || !is_plain(key);
            let key = if quoted { Value::from(&**key).to_string() } else { key.clone() };
            format!(", {key}: {value}")
        }
        _ => format!(", {value}"),
    };
    let at = last.bytes.end;
    Some(format!("{}{added}{}", &text[..at], &text[at..]))
}

fn up_to(path: &Path, depth: usize) -> Path {
    Path(path.0.iter().take(depth).cloned().collect())
}

fn is_plain(key: &str) -> bool {
    !key.starts_with(|first: char| first.is_ascii_digit())
        && !key.is_empty()
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$'))
}

/// Makes any other change.
fn in_its_lines(text: &str, change: &Change) -> Result<String, EditError> {
    let (mark, body) = match text.strip_prefix(BYTE_ORDER_MARK) {
        Some(body) => ("\u{feff}", body),
        None => ("", text),
    };
    let body = if body.trim().is_empty() { EMPTY } else { body };
    let root = CstRootNode::parse(body, &ParseOptions::default())
        .map_err(|error| EditError::Odd(error.to_string()))?;
    change_node(&root.object_value().ok_or(EditError::NoObject)?, change);
    Ok(format!("{mark}{root}"))
}

/// Returns the value at a path.
#[must_use]
pub fn get<'a>(value: &'a Value, path: &Path) -> Option<&'a Value> {
    path.0.iter().try_fold(value, |value, step| match (value, step) {
        (Value::Object(members), Step::Key(key)) => members.get(key),
        (Value::Array(items), step) => items.get(index_of(step)?),
        _ => None,
    })
}

/// Applies a change to a value.
///
/// # Errors
///
/// When something on the way cannot hold the rest of it.
pub fn change_value(value: &mut Value, change: &Change) -> Result<(), EditError> {
    match change {
        Change::Set(path, new) => set_value(value, &path.0, new, &Path::default()),
        Change::Unset(path) => {
            unset_value(value, &path.0);
            Ok(())
        }
    }
}

/// Returns the changes that a merge patch asks for: `null` takes a key away,
/// objects go into objects, everything else replaces.
#[must_use]
pub fn merge_patch(current: &Value, patch: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    patch_changes(Some(current), patch, &Path::default(), &mut changes);
    changes
}

/// Returns changes that lead from one value to another and touch as little as
/// possible.
#[must_use]
pub fn difference(old: &Value, new: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    differences(old, new, &Path::default(), &mut changes);
    changes
}

fn set_value(value: &mut Value, way: &[Step], new: &Value, at: &Path) -> Result<(), EditError> {
    let Some((step, rest)) = way.split_first() else {
        *value = new.clone();
        return Ok(());
    };
    if value.is_null() {
        *value = empty_for(step);
    }
    let found = kind(value);
    let no_container =
        || EditError::NoContainer { path: named(at), found, wanted: shown_step(step) };
    match value {
        Value::Object(members) => {
            let Step::Key(key) = step else { return Err(no_container()) };
            let inner = members.entry(key.clone()).or_insert(Value::Null);
            set_value(inner, rest, new, &at.key(key))
        }
        Value::Array(items) => {
            let index = index_of(step).ok_or_else(no_container)?;
            if index > items.len() {
                return Err(EditError::Gap { path: named(at), length: items.len(), index });
            }
            if index == items.len() {
                items.push(Value::Null);
            }
            set_value(&mut items[index], rest, new, &at.index(index))
        }
        _ => Err(no_container()),
    }
}

fn unset_value(value: &mut Value, way: &[Step]) {
    let Some((step, rest)) = way.split_first() else { return };
    match (value, step) {
        (Value::Object(members), Step::Key(key)) => {
            if rest.is_empty() {
                members.shift_remove(key);
            } else if let Some(inner) = members.get_mut(key) {
                unset_value(inner, rest);
            }
        }
        (Value::Array(items), step) => {
            let Some(index) = index_of(step).filter(|index| *index < items.len()) else { return };
            if rest.is_empty() {
                items.remove(index);
            } else {
                unset_value(&mut items[index], rest);
            }
        }
        _ => {}
    }
}

/// A number counts as an index where a list stands: `agents.list.0`.
fn index_of(step: &Step) -> Option<usize> {
    match step {
        Step::Index(index) => Some(*index),
        Step::Key(key) => key.parse().ok(),
    }
}

fn empty_for(step: &Step) -> Value {
    match step {
        Step::Key(_) => Value::Object(Map::new()),
        Step::Index(_) => Value::Array(Vec::new()),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn named(path: &Path) -> String {
    if path.0.is_empty() { "the file".into() } else { path.to_string() }
}

fn shown_step(step: &Step) -> String {
    match step {
        Step::Key(key) => format!("key {key:?}"),
        Step::Index(index) => format!("item {index}"),
    }
}

/// Applies a change that [`change_value`] took.
fn change_node(top: &CstObject, change: &Change) {
    match change {
        Change::Set(path, new) => set_in_object(top, &path.0, new),
        Change::Unset(path) => unset_in_object(top, &path.0),
    }
}

/// Of a key given twice the last counts.
fn property(object: &CstObject, key: &str) -> Option<CstObjectProp> {
    object.properties().into_iter().rev().find(|it| it.decoded_name().as_deref() == Some(key))
}

fn set_in_object(object: &CstObject, way: &[Step], new: &Value) {
    let Some((Step::Key(key), rest)) = way.split_first() else { return };
    let Some(found) = property(object, key) else {
        object.append(key, input(&around(rest, new)));
        return;
    };
    let inner = found.value();
    match inner {
        _ if rest.is_empty() => found.set_value(input(new)),
        Some(inner) if inner.as_object().is_some() || inner.as_array().is_some() => {
            set_in_node(&inner, rest, new);
        }
        _ => found.set_value(input(&around(rest, new))),
    }
}

fn set_in_node(node: &CstNode, rest: &[Step], new: &Value) {
    if let Some(object) = node.as_object() {
        set_in_object(&object, rest, new);
    } else if let Some(array) = node.as_array() {
        set_in_array(&array, rest, new);
    }
}

fn set_in_array(array: &CstArray, way: &[Step], new: &Value) {
    let Some((step, rest)) = way.split_first() else { return };
    let Some(index) = index_of(step) else { return };
    match array.elements().into_iter().nth(index) {
        None => drop(array.append(input(&around(rest, new)))),
        Some(inner)
            if !rest.is_empty() && (inner.as_object().is_some() || inner.as_array().is_some()) =>
        {
            set_in_node(&inner, rest, new);
        }
        Some(inner) => replace(&inner, input(&around(rest, new))),
    }
}

fn replace(node: &CstNode, new: CstInputValue) {
    if let Some(it) = node.as_object() {
        it.replace_with(new);
    } else if let Some(it) = node.as_array() {
        it.replace_with(new);
    } else if let Some(it) = node.as_string_lit() {
        it.replace_with(new);
    } else if let Some(it) = node.as_number_lit() {
        it.replace_with(new);
    } else if let Some(it) = node.as_boolean_lit() {
        it.replace_with(new);
    } else if let Some(it) = node.as_null_keyword() {
        it.replace_with(new);
    } else if let Some(it) = node.as_word_lit() {
        it.replace_with(new);
    }
}

fn unset_in_object(object: &CstObject, way: &[Step]) {
    let Some((Step::Key(key), rest)) = way.split_first() else { return };
    if !rest.is_empty() {
        if let Some(inner) = property(object, key).and_then(|found| found.value()) {
            unset_in_node(&inner, rest);
        }
        return;
    }
    // An earlier one of the same name must not come back to life.
    while let Some(found) = property(object, key) {
        found.remove();
    }
}

fn unset_in_node(node: &CstNode, rest: &[Step]) {
    if let Some(object) = node.as_object() {
        unset_in_object(&object, rest);
    } else if let Some(array) = node.as_array() {
        let Some((step, rest)) = rest.split_first() else { return };
        let inner = index_of(step).and_then(|index| array.elements().into_iter().nth(index));
        match inner {
            Some(inner) if rest.is_empty() => inner.remove(),
            Some(inner) => unset_in_node(&inner, rest),
            None => {}
        }
    }
}

/// Wraps a value into what is missing on the way to it.
fn around(way: &[Step], new: &Value) -> Value {
    way.iter().rev().fold(new.clone(), |inner, step| match step {
        Step::Key(key) => Value::Object(Map::from_iter([(key.clone(), inner)])),
        Step::Index(_) => Value::Array(vec![inner]),
    })
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(it) => CstInputValue::Bool(*it),
        Value::Number(it) => CstInputValue::Number(it.to_string()),
        Value::String(it) => CstInputValue::String(it.clone()),
        Value::Array(items) => CstInputValue::Array(items.iter().map(input).collect()),
        Value::Object(members) => CstInputValue::Object(
            members.iter().map(|(key, member)| (key.clone(), input(member))).collect(),
        ),
    }
}

fn patch_changes(current: Option<&Value>, patch: &Value, at: &Path, changes: &mut Vec<Change>) {
    let Value::Object(members) = patch else {
        changes.push(Change::Set(at.clone(), patch.clone()));
        return;
    };
    if !current.is_some_and(Value::is_object) {
        changes.push(Change::Set(at.clone(), without_nulls(patch)));
        return;
    }
    for (key, member) in members {
        let at = at.key(key);
        let inner = current.and_then(|current| current.get(key));
        match (member, inner) {
            (Value::Null, None) => {}
            (Value::Null, Some(_)) => changes.push(Change::Unset(at)),
            (member, Some(inner)) if member == inner => {}
            (member, inner) => patch_changes(inner, member, &at, changes),
        }
    }
}

fn without_nulls(value: &Value) -> Value {
    let Value::Object(members) = value else { return value.clone() };
    let kept = members.iter().filter(|(_, member)| !member.is_null());
    Value::Object(kept.map(|(key, member)| (key.clone(), without_nulls(member))).collect())
}

fn differences(old: &Value, new: &Value, at: &Path, changes: &mut Vec<Change>) {
    match (old, new) {
        (old, new) if old == new => {}
        (Value::Object(before), Value::Object(after)) => {
            let gone = before.keys().filter(|key| !after.contains_key(*key));
            changes.extend(gone.map(|key| Change::Unset(at.key(key))));
            for (key, member) in after {
                match before.get(key) {
                    Some(before) => differences(before, member, &at.key(key), changes),
                    None => changes.push(Change::Set(at.key(key), member.clone())),
                }
            }
        }
        (Value::Array(before), Value::Array(after)) => lists(before, after, at, changes),
        (_, new) => changes.push(Change::Set(at.clone(), new.clone())),
    }
}

fn lists(before: &[Value], after: &[Value], at: &Path, changes: &mut Vec<Change>) {
    let same = |pair: &(&Value, &Value)| pair.0 == pair.1;
    let head = before.iter().zip(after).take_while(same).count();
    let left = before.len().min(after.len()) - head;
    let tail = before.iter().rev().zip(after.iter().rev()).take(left).take_while(same).count();
    let (old, new) = (&before[head..before.len() - tail], &after[head..after.len() - tail]);
    if new.is_empty() {
        // From the end, so that earlier indices stay right.
        changes.extend((0..old.len()).rev().map(|index| Change::Unset(at.index(head + index))));
    } else if old.len() == new.len() || (tail == 0 && old.len() < new.len()) {
        for (index, item) in new.iter().enumerate() {
            let at = at.index(head + index);
            match old.get(index) {
                Some(old) => differences(old, item, &at, changes),
                None => changes.push(Change::Set(at, item.clone())),
            }
        }
    } else {
        changes.push(Change::Set(at.clone(), Value::Array(after.to_vec())));
    }
}

#[cfg(test)]
mod tests;
