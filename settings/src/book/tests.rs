use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn set(path: &str, value: Value) -> Change {
    let Ok(path) = path.parse();
    Change::Set(path, value)
}

fn book(text: &str) -> (tempfile::TempDir, Book) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("moltbot.json");
    fs::write(&file, text).unwrap();
    let book = Book::of(&file);
    (dir, book)
}

fn change(book: &Book, change: Change) -> Option<Entry> {
    let mut draft = book.change().unwrap();
    draft.apply(&[change]).unwrap();
    draft.install("test").unwrap()
}

fn undo(book: &Book, number: Option<u64>) -> Result<u64, BookError> {
    let mut draft = book.change()?;
    let entry = draft.undo(number)?;
    draft.install("undo")?;
    Ok(entry.number)
}

fn text(book: &Book) -> String {
    fs::read_to_string(book.main()).unwrap()
}

#[test]
fn changes_are_kept_and_taken_back_one_by_one() {
    let first = "{ a: 1 } // mine\n";
    let (dir, book) = book(first);
    assert_eq!(change(&book, set("a", json!(2))).unwrap().number, 1);
    let second = text(&book);
    assert_eq!(change(&book, set("a", json!(3))).unwrap().number, 2);
    assert!(change(&book, set("a", json!(3))).is_none(), "nothing to do");
    assert_eq!(undo(&book, None).unwrap(), 2);
    assert_eq!(text(&book), second);
    assert_eq!(undo(&book, None).unwrap(), 1);
    assert_eq!(text(&book), first);
    assert!(matches!(undo(&book, None), Err(BookError::Nothing)));
    assert_eq!(undo(&book, Some(2)).unwrap(), 2);
    assert_eq!(text(&book), second);
    assert!(matches!(undo(&book, Some(99)), Err(BookError::NoChange(99))));
    let history = book.history().unwrap();
    assert_eq!(history.len(), 5);
    assert_eq!((history[2].undoes, &*history[0].by), (Some(2), "test"));
    let names = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(names, 2, "the file and the folder of copies");
}

#[test]
fn an_edit_by_hand_is_not_taken_back_by_accident() {
    let (_dir, book) = book("{ a: 1 }");
    change(&book, set("a", json!(2)));
    fs::write(book.main(), "{ a: 2, b: 'by hand' }").unwrap();
    let refused = undo(&book, None).unwrap_err().to_string();
    assert!(refused.contains("moltbotctl config undo 1"), "{refused}");
    assert_eq!(undo(&book, Some(1)).unwrap(), 1);
    assert_eq!(text(&book), "{ a: 1 }");
    assert_eq!(undo(&book, Some(2)).unwrap(), 2);
    assert_eq!(text(&book), "{ a: 2, b: 'by hand' }", "what was written by hand is kept too");
}

#[test]
fn a_main_file_that_was_not_there_is_empty_again_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let book = Book::of(&dir.path().join("new/moltbot.json"));
    change(&book, set("gateway.port", json!(1)));
    assert_eq!(mode(book.main()), 0o600);
    let made = text(&book);
    assert_eq!(undo(&book, None).unwrap(), 1);
    assert_eq!(text(&book), "{}\n");
    assert!(matches!(undo(&book, None), Err(BookError::Nothing)));
    assert_eq!(undo(&book, Some(2)).unwrap(), 2);
    assert_eq!(text(&book), made);
    assert_eq!(undo(&book, Some(1)).unwrap(), 1);
    assert_eq!(text(&book), "{}\n");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_file_keeps_its_mode_and_its_copies_are_closed_to_others() {
    let (_dir, book) = book("{}");
    for kept in [0o644, 0o600, 0o640, 0o400, 0o666] {
        chmod(book.main(), kept);
        change(&book, set("a", json!(kept)));
        assert_eq!(mode(book.main()), kept);
    }
    assert_eq!(mode(&book.folder()), 0o700);
    for name in ["1.json5", "changes.json", "lock"] {
        assert_eq!(mode(&book.folder().join(name)), 0o600, "{name}");
    }
}

#[test]
fn taking_a_change_back_restores_the_mode_of_before() {
    let (_dir, book) = book("{}");
    chmod(book.main(), 0o644);
    change(&book, set("a", json!(1)));
    chmod(book.main(), 0o600);
    undo(&book, None).unwrap();
    assert_eq!(mode(book.main()), 0o644);
}

#[test]
fn a_change_of_an_older_version_is_taken_back_without_a_mode() {
    let (_dir, book) = book("{}");
    change(&book, set("a", json!(1)));
    let list = book.folder().join("changes.json");
    let mut entries: Value = serde_json::from_str(&fs::read_to_string(&list).unwrap()).unwrap();
    entries[0]["files"][0].as_object_mut().unwrap().remove("access").unwrap();
    fs::write(&list, entries.to_string()).unwrap();
    chmod(book.main(), 0o640);
    undo(&book, None).unwrap();
    assert_eq!((&*text(&book), mode(book.main())), ("{}", 0o640));
}

#[test]
fn the_list_of_changes_gives_a_file_to_no_other_user_and_no_other_rights() {
    let (_dir, book) = book("{}");
    change(&book, set("a", json!(1)));
    let now = Access::of(book.main()).unwrap();
    let list = book.folder().join("changes.json");
    let mut entries: Value = serde_json::from_str(&fs::read_to_string(&list).unwrap()).unwrap();
    entries[0]["files"][0]["access"] = json!({ "uid": 4242, "gid": 4242, "mode": 0o666 });
    fs::write(&list, entries.to_string()).unwrap();
    undo(&book, None).unwrap();
    assert_eq!(Access::of(book.main()).unwrap(), now);
    // A mode has no bits that change who a program runs as.
    let entries = json!({ "uid": now.uid, "gid": now.gid, "mode": 0o4755 });
    let access: Access = serde_json::from_value(entries).unwrap();
    access.give(&File::open(book.main()).unwrap()).unwrap();
    assert_eq!(mode(book.main()), 0o755);
}

#[test]
fn a_link_in_the_place_of_the_lock_is_not_followed() {
    let (dir, book) = book("{}");
    fs::create_dir(book.folder()).unwrap();
    let elsewhere = dir.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, book.folder().join("lock")).unwrap();
    assert!(matches!(book.change(), Err(BookError::Io { action: "lock", .. })));
    assert!(!elsewhere.exists());
}

#[test]
fn a_link_stays_a_link() {
    let (dir, book) = book("{}");
    let link = dir.path().join("link.json");
    std::os::unix::fs::symlink(book.main(), &link).unwrap();
    change(&Book::of(&link), set("a", json!(1)));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(text(&book).contains("\"a\": 1"));
}

#[test]
fn a_change_that_was_cut_short_is_not_taken_back() {
    let (_dir, book) = book("{ a: 1 }");
    change(&book, set("a", json!(2)));
    let mut draft = book.change().unwrap();
    draft.apply(&[set("a", json!(3))]).unwrap();
    draft.record(&draft.changed(), "cut short").unwrap();
    drop(draft);
    assert_eq!(undo(&book, None).unwrap(), 1);
    assert_eq!(text(&book), "{ a: 1 }");
}

#[test]
fn an_editor_that_does_not_know_the_lock_is_noticed() {
    let (_dir, book) = book("{ a: 1 }");
    let mut draft = book.change().unwrap();
    draft.apply(&[set("a", json!(2))]).unwrap();
    fs::write(book.main(), "{ a: 1, b: 2 }").unwrap();
    assert!(matches!(draft.install("test"), Err(BookError::Changed(_))));
    assert_eq!(text(&book), "{ a: 1, b: 2 }");
}

#[test]
fn editors_wait_for_each_other() {
    let (_dir, book) = book("{ n: {} }");
    thread::scope(|scope| {
        for editor in 0..8 {
            let book = &book;
            scope.spawn(move || {
                for count in 0..5 {
                    change(book, set(&format!("n.e{editor}x{count}"), json!(count)));
                }
            });
        }
    });
    let value: Value = json5::from_str(&text(&book)).unwrap();
    assert_eq!(value["n"].as_object().unwrap().len(), 40);
    assert_eq!(book.history().unwrap().len(), 40);
}

#[test]
fn only_so_many_changes_are_kept() {
    let (_dir, book) = book("{}");
    for count in 0..KEPT + 3 {
        change(&book, set("a", json!(count)));
    }
    assert_eq!(book.history().unwrap().len(), KEPT);
    let copies = fs::read_dir(book.folder()).unwrap().count();
    assert_eq!(copies, KEPT + 2, "and the lock and the list");
}

#[test]
fn several_files_are_one_change() {
    let (dir, book) = book("{ $include: 'more.json', a: 1 }");
    fs::write(dir.path().join("more.json"), "{ b: 1 }").unwrap();
    let mut draft = book.change().unwrap();
    let files = draft.apply(&[set("a", json!(2)), set("b", json!(2))]).unwrap();
    assert_eq!(files.len(), 2);
    draft.install("test").unwrap();
    assert!(fs::read_to_string(dir.path().join("more.json")).unwrap().contains("b: 2"));
    undo(&book, None).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("more.json")).unwrap(), "{ b: 1 }");
    assert_eq!(text(&book), "{ $include: 'more.json', a: 1 }");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Taking back as many changes as were made leads back, byte for byte.
    #[test]
    fn edit_and_undo_are_nothing(
        comment in "[ a-zü]{0,12}",
        keys in prop::collection::vec("[a-c]\\.[a-d]", 1..8),
        values in prop::collection::vec(prop::option::of(-9_i32..9), 8),
        separator in prop::sample::select(vec!["\n", "\r\n", " ", "\t"]),
    ) {
        let original = format!("//{comment}\n{{{separator}a: {{ b: 1, }},{separator}/* x */}}\n");
        let (_dir, book) = book(&original);
        let mut made = 0;
        for (key, value) in keys.iter().zip(values) {
            let Ok(path) = key.parse();
            let change_made = match value {
                Some(value) => change(&book, Change::Set(path, value.into())),
                None => change(&book, Change::Unset(path)),
            };
            made += usize::from(change_made.is_some());
        }
        for _ in 0..made {
            undo(&book, None).unwrap();
        }
        prop_assert_eq!(text(&book), original);
    }
}
