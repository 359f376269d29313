use proptest::prelude::*;
use serde_json::json;

use super::*;

const TEXT: &str = "// The gateway of the kitchen.
{
  gateway: { port: 18789, 'bind': \"lan\" }, // reachable
  /* who answers */
  agents: {
    list: [
      { id: 'main' }, // the first
      { id: 'other', model: 'a/b' },
    ],
  },
  limits: [1, .5, 0x10, Infinity],
}
";

fn set(path: &str, value: Value) -> Change {
    let Ok(path) = path.parse();
    Change::Set(path, value)
}

fn unset(path: &str) -> Change {
    let Ok(path) = path.parse();
    Change::Unset(path)
}

fn edited(text: &str, change: Change) -> String {
    apply(text, &[change]).unwrap()
}

#[test]
fn a_change_touches_nothing_else() {
    assert_eq!(edited(TEXT, set("gateway.port", json!(1))), TEXT.replace("port: 18789", "port: 1"));
    assert_eq!(
        edited(TEXT, set("agents.list[1].model", json!({ "primary": "c/d" })))
            .replace("{\n          \"primary\": \"c/d\"\n        }", "'a/b'"),
        TEXT
    );
    assert_eq!(
        edited(TEXT, unset("agents.list.0")),
        TEXT.replace("      { id: 'main' }, // the first\n", "")
    );
    let added = edited(TEXT, set("logging.level", json!("debug")));
    assert_eq!(added.replace("  \"logging\": {\n    \"level\": \"debug\",\n  },\n", ""), TEXT);
    assert_eq!(edited(&added, unset("logging")), TEXT);
}

#[test]
fn what_stands_on_one_line_stays_there() {
    let added = edited(TEXT, set("gateway.auth.token", json!("t")));
    assert_eq!(added, TEXT.replace("\"lan\" }", "\"lan\", \"auth\": {\"token\":\"t\"} }"));
    let added = edited(TEXT, set("limits[4]", json!("x")));
    assert_eq!(added, TEXT.replace("Infinity]", "Infinity, \"x\"]"));
    let added = edited("{a: 1, b: {c: 2,},}", set("b.d", json!(true)));
    assert_eq!(added, "{a: 1, b: {c: 2, d: true,},}");
}

#[test]
fn what_is_already_so_is_left_alone() {
    for change in [set("gateway.port", json!(18789)), unset("nothing"), unset("limits[9]")] {
        assert_eq!(edited(TEXT, change), TEXT);
    }
}

#[test]
fn an_empty_file_is_begun() {
    for text in ["", " \n", "\u{feff}"] {
        let begun = edited(text, set("gateway.port", json!(1)));
        assert_eq!(parse(&begun).unwrap(), json!({ "gateway": { "port": 1 } }));
        assert_eq!(begun.starts_with('\u{feff}'), text.starts_with('\u{feff}'));
    }
}

#[test]
fn the_last_of_equal_keys_counts_and_all_go() {
    let text = "{ a: 1, /* again */ a: 2 }";
    assert_eq!(edited(text, set("a", json!(3))), "{ a: 1, /* again */ a: 3 }");
    assert_eq!(parse(&edited(text, unset("a"))).unwrap(), json!({}));
}

#[test]
fn what_is_not_possible_says_why() {
    let why = |text: &str, change| apply(text, &[change]).unwrap_err().to_string();
    assert_eq!(
        why(TEXT, set("gateway.port.x", json!(1))),
        "gateway.port is a number, so it has no key \"x\""
    );
    assert_eq!(
        why(TEXT, set("limits[7]", json!(1))),
        "limits has 4 items, so 7 cannot be set; the next one is 4"
    );
    assert_eq!(why("{ a: }", set("a", json!(1))).split(": not").next(), Some("1:6"));
    assert_eq!(why("[1]", set("a", json!(1))), "the file must hold an object: { … }");
    assert!(why(&"[".repeat(99), set("a", json!(1))).contains("deeper"));
    assert!(why("{ k\\u0065y: 1 }", unset("key")).contains("with an editor"));
}

#[test]
fn a_merge_patch_becomes_changes() {
    let current = json!({ "a": { "b": 1, "c": 2 }, "l": [1], "x": 1 });
    let patch =
        json!({ "a": { "b": 1, "c": null, "d": { "e": null, "f": 1 } }, "l": [2], "y": null });
    let changes = merge_patch(&current, &patch);
    assert_eq!(changes, [unset("a.c"), set("a.d", json!({ "f": 1 })), set("l", json!([2]))]);
}

fn words() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,3}",
        Just("a.b".to_owned()),
        Just("$x".to_owned()),
        Just("ü \"'\\".to_owned()),
    ]
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[ -~ü€\n\t\u{2028}]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(words(), inner, 0..4)
                .prop_map(|it| Value::Object(it.into_iter().collect())),
        ]
    })
}

fn objects() -> impl Strategy<Value = Value> {
    prop::collection::btree_map(words(), values(), 0..5)
        .prop_map(|it| Value::Object(it.into_iter().collect()))
}

/// How a person may have written a value down.
#[derive(Clone, Copy, Debug)]
struct Hand {
    comments: bool,
    lines: bool,
    trailing: bool,
    bare: bool,
}

fn hands() -> impl Strategy<Value = Hand> {
    (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(comments, lines, trailing, bare)| Hand { comments, lines, trailing, bare })
}

impl Hand {
    fn write(self, value: &Value) -> String {
        let mut text = String::from(if self.comments { "// top\n" } else { "" });
        self.put(value, 0, &mut text);
        text + "\n"
    }

    fn put(self, value: &Value, depth: usize, text: &mut String) {
        match value {
            Value::Array(items) => {
                let items = items.iter().map(|item| (None, item)).collect();
                self.list('[', ']', items, depth, text);
            }
            Value::Object(members) => {
                let items = members.iter().map(|(key, item)| (Some(&**key), item)).collect();
                self.list('{', '}', items, depth, text);
            }
            value => *text += &value.to_string(),
        }
    }

    fn list(
        self,
        open: char,
        close: char,
        items: Vec<(Option<&str>, &Value)>,
        depth: usize,
        text: &mut String,
    ) {
        text.push(open);
        let count = items.len();
        for (index, (key, item)) in items.into_iter().enumerate() {
            if self.lines {
                *text += "\n";
                *text += &"  ".repeat(depth + 1);
            }
            if self.comments && index % 2 == 0 {
                *text += "/* c */ ";
            }
            if let Some(key) = key {
                let plain = key.bytes().all(|byte| byte.is_ascii_lowercase());
                *text += &match plain && self.bare {
                    true => key.to_owned(),
                    false => Value::from(key).to_string(),
                };
                *text += ": ";
            }
            self.put(item, depth + 1, text);
            if self.trailing || index + 1 < count {
                text.push(',');
            }
            if self.comments && self.lines {
                *text += " // e";
            }
        }
        if self.lines && count > 0 {
            *text += "\n";
            *text += &"  ".repeat(depth);
        }
        text.push(close);
    }
}

/// Returns a way that exists in a value, chosen by a number, and whether one
/// step more is to be taken than there is.
fn way(value: &Value, mut choice: usize) -> Path {
    let mut path = Path::default();
    let mut value = value;
    loop {
        let (step, inner) = match value {
            Value::Object(members) if !members.is_empty() => {
                let (key, inner) = members.iter().nth(choice % members.len()).unwrap();
                (Step::Key(key.clone()), inner)
            }
            Value::Array(items) if !items.is_empty() => {
                let index = choice % items.len();
                (Step::Index(index), &items[index])
            }
            _ => return path,
        };
        path.0.push(step);
        if choice.is_multiple_of(3) {
            return path;
        }
        (value, choice) = (inner, choice / 2);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// The result says what was asked for, whoever wrote the text and how, and
    /// no comment outside of what was replaced is gone.
    #[test]
    fn an_edit_means_what_was_asked_for(
        before in objects(),
        hand in hands(),
        choice in 0_usize..1000,
        new in prop::option::of(values()),
    ) {
        let text = hand.write(&before);
        prop_assert_eq!(&parse(&text).unwrap(), &before);
        let path = way(&before, choice);
        prop_assume!(!path.0.is_empty());
        let change = match new {
            Some(new) => Change::Set(path, new),
            None => Change::Unset(path),
        };
        let mut wanted = before.clone();
        change_value(&mut wanted, &change).unwrap();
        let edited = apply(&text, std::slice::from_ref(&change)).unwrap();
        prop_assert_eq!(parse(&edited).unwrap(), wanted);
        if hand.comments {
            prop_assert!(edited.starts_with("// top\n"));
        }
    }

    /// A key that is added and taken away again leaves the text as it was,
    /// where there is a line for it.
    #[test]
    fn adding_and_taking_away_is_nothing(before in objects(), comments: bool, new in values()) {
        prop_assume!(!before.as_object().unwrap().is_empty() && before.get("new").is_none());
        let hand = Hand { comments, lines: true, trailing: true, bare: true };
        let text = hand.write(&before);
        let added = apply(&text, &[set("newkey", new)]).unwrap();
        prop_assert_eq!(apply(&added, &[unset("newkey")]).unwrap(), text);
    }

    /// The difference of two values leads from one to the other, in any text.
    #[test]
    fn a_difference_leads_there(before in objects(), after in objects(), hand in hands()) {
        let text = hand.write(&before);
        let changes = difference(&before, &after);
        let edited = apply(&text, &changes).unwrap();
        prop_assert_eq!(parse(&edited).unwrap(), after);
    }

    /// Whatever is thrown at it, an edit ends with an answer.
    #[test]
    fn nothing_panics(text in "[{}\\[\\]:,'\"/*a1\\\\ \n.-]{0,40}") {
        let _ = apply(&text, &[set("a.b", json!(1)), unset("a")]);
    }
}
