//! `docs/security-record.md`: what is promised, what proves it, and how far it holds.
//!
//! The tables in `rules` and `advisories` are the only place where this is written down. The
//! document is made from them, and these tests keep them honest: a test that is named must
//! exist, and neither a rule nor a published advisory may be left out.

mod advisories;
mod attack;
mod rules;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use moltbot_tests::programs::source_root;

use self::rules::Rule;

const DOCUMENT: &str = "docs/security-record.md";

/// How far a rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// As written, and a test would fail if it did not.
    Held,
    /// In part; the remark says what is missing.
    Partly,
    /// Not; the remark says why.
    Open,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Partly => "partly",
            Self::Open => "not",
        }
    }
}

/// What an advisory means for this gateway.
enum Answer {
    /// Tests show that it does not have the weakness.
    Tests(&'static [&'static str]),
    /// What the advisory is about does not exist here.
    DoesNotApply(&'static str),
}

/// Advisories with one cause.
struct Advisory {
    ids: &'static [&'static str],
    weakness: &'static str,
    answer: Answer,
}

/// Something that an attack of our own found and that was mended.
struct Finding {
    what: &'static str,
    tests: &'static [&'static str],
}

#[test]
fn the_record_is_what_the_tables_say() {
    let page = render(&tests_of_the_sources());
    let file = source_root().join(DOCUMENT);
    if std::env::var("INSTA_UPDATE").is_ok_and(|value| value == "always") {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, &page).unwrap();
    }
    let stored = fs::read_to_string(&file).unwrap_or_default();
    assert!(stored == page, "{DOCUMENT} is stale; run this with INSTA_UPDATE=always");
}

#[test]
fn every_test_that_the_record_names_exists() {
    let tests = tests_of_the_sources();
    let rules = rules::SECURITY.iter().chain(rules::RELIABILITY).flat_map(|rule| rule.tests);
    let advisories = advisories::ADVISORIES.iter().flat_map(|advisory| match advisory.answer {
        Answer::Tests(tests) => tests,
        Answer::DoesNotApply(_) => &[],
    });
    let findings = attack::FINDINGS.iter().flat_map(|finding| finding.tests);
    let missing: BTreeSet<_> = rules
        .chain(advisories)
        .chain(findings)
        .filter(|name| !tests.contains_key(**name))
        .collect();
    assert!(missing.is_empty(), "named but not there: {missing:#?}");
}

#[test]
fn no_rule_is_left_out_and_none_is_called_held_without_a_test() {
    for (rules, letter, count) in [(rules::SECURITY, "S", 40), (rules::RELIABILITY, "T", 22)] {
        let ids: Vec<_> = rules.iter().map(|rule| rule.id.to_owned()).collect();
        let all: Vec<_> = (1..=count).map(|number| format!("{letter}{number}")).collect();
        assert_eq!(ids, all);
        for rule in rules {
            let Rule { id, verdict, tests, remark, .. } = rule;
            assert!(*verdict != Verdict::Held || !tests.is_empty(), "{id} is held by no test");
            assert!(*verdict == Verdict::Held || !remark.is_empty(), "{id}: what is missing?");
        }
    }
}

#[test]
fn every_published_advisory_has_one_row_and_every_test_named_for_one_is_in_it() {
    let mut rows = BTreeMap::new();
    for advisory in advisories::ADVISORIES {
        for id in advisory.ids {
            assert!(rows.insert(*id, advisory).is_none(), "{id} has two rows");
        }
        match advisory.answer {
            Answer::Tests(tests) => assert!(!tests.is_empty(), "{:?}: no test", advisory.ids),
            Answer::DoesNotApply(reason) => assert!(reason.len() > 20, "{:?}", advisory.ids),
        }
    }
    for id in include_str!("published.txt").lines() {
        assert!(rows.contains_key(id), "{id} has no row");
    }
    for name in tests_of_the_sources().keys() {
        for id in ids_in(name) {
            let row = rows.get(id.as_str()).unwrap_or_else(|| panic!("{name}: {id} has no row"));
            let named =
                matches!(row.answer, Answer::Tests(tests) if tests.contains(&name.as_str()));
            assert!(named, "the row of {id} does not name {name}");
        }
    }
}

#[test]
fn ids_are_read_off_the_names_of_tests() {
    let ids = |name| ids_in(name).into_iter().collect::<Vec<_>>();
    assert_eq!(ids("cve_2026_1_cve_2026_25253_a_page_of_2026"), ["CVE-2026-1", "CVE-2026-25253"]);
    assert_eq!(ids("ghsa_4jpw_hj22_2xmc_nothing"), ["GHSA-4jpw-hj22-2xmc"]);
    assert!(ids("a_test_without_cves").is_empty());
}

/// Returns the advisories that the beginning of a test's name says.
fn ids_in(name: &str) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let mut words = name.split('_');
    while let Some(word) = words.next() {
        let count = match word {
            "cve" => 2,
            "ghsa" => 3,
            _ => break,
        };
        let rest: Vec<_> = words.by_ref().take(count).collect();
        ids.insert(format!("{}-{}", word.to_uppercase(), rest.join("-")));
    }
    ids
}

/// Returns every test of the workspace by name, with its file relative to the sources.
fn tests_of_the_sources() -> BTreeMap<String, PathBuf> {
    let mut tests = BTreeMap::new();
    let root = source_root();
    for package in ["protocol", "settings", "moltbotd", "moltbotctl", "packaging", "tests"] {
        collect_tests(root, &root.join(package), &mut tests);
    }
    tests
}

fn collect_tests(root: &Path, folder: &Path, tests: &mut BTreeMap<String, PathBuf>) {
    let mut entries: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            if !path.ends_with("node_modules") && !path.ends_with("target") {
                collect_tests(root, &path, tests);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = path.strip_prefix(root).unwrap();
            for name in tests_in(&fs::read_to_string(&path).unwrap()) {
                tests.entry(name).or_insert_with(|| file.to_owned());
            }
        }
    }
}

/// Returns the functions below `#[test]` and `#[tokio::test]`, and the names that a macro of
/// tests is given (`name => story`).
fn tests_in(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut marked = false;
    for line in text.lines().map(str::trim) {
        let name = |rest: &str| -> String {
            rest.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
        };
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some(rest) =
            line.strip_prefix("fn ").or_else(|| line.strip_prefix("async fn "))
        {
            if marked {
                names.push(name(rest));
            }
            marked = false;
        } else if let Some((head, _)) = line.split_once(" => super::")
            && name(head) == head
        {
            names.push(head.to_owned());
        }
    }
    names
}

fn render(tests: &BTreeMap<String, PathBuf>) -> String {
    let mut page = String::from(HEAD);
    for (title, rules) in [("Security", rules::SECURITY), ("Reliability", rules::RELIABILITY)] {
        let count = |verdict| rules.iter().filter(|rule| rule.verdict == verdict).count();
        let [held, partly, open] = [Verdict::Held, Verdict::Partly, Verdict::Open].map(count);
        writeln!(page, "## {title}\n\n{held} held, {partly} partly, {open} not.\n").unwrap();
        page.push_str("| | Rule | Verdict | Tests | Remark |\n|---|---|---|---|---|\n");
        for Rule { id, rule, verdict, tests: named, remark } in rules {
            let named = links(named, tests);
            let verdict = verdict.name();
            writeln!(page, "| {id} | {rule} | {verdict} | {named} | {remark} |").unwrap();
        }
        page.push('\n');
    }

    page.push_str(ADVISORIES_HEAD);
    for Advisory { ids, weakness, answer } in advisories::ADVISORIES {
        let answer = match answer {
            Answer::Tests(named) => links(named, tests),
            Answer::DoesNotApply(reason) => format!("does not apply: {reason}"),
        };
        writeln!(page, "| {} | {weakness} | {answer} |", ids.join(", ")).unwrap();
    }

    page.push_str(FINDINGS_HEAD);
    for Finding { what, tests: named } in attack::FINDINGS {
        writeln!(page, "| {what} | {} |", links(named, tests)).unwrap();
    }
    page
}

fn links(named: &[&str], tests: &BTreeMap<String, PathBuf>) -> String {
    let link = |name: &&str| match tests.get(*name) {
        Some(file) => format!("[`{name}`](../{})", file.display()),
        None => format!("`{name}` (missing)"),
    };
    named.iter().map(link).collect::<Vec<_>>().join(", ")
}

const HEAD: &str = "\
# Security record

What the gateway promises, which tests prove it, and how far it holds. This page is made from the tables in
`tests/e2e/security_record`, and a test fails when it is stale, when a test that it names does not exist, or when a rule or a
published advisory is missing.

A verdict is about the rule as it is written: *held* means that a test fails when it is broken, *partly* that the remark says what
is missing, *not* that the gateway does not do it. Tests in `tests/outside` need programs that `tests/run` installs.

";

const ADVISORIES_HEAD: &str = "\
## Published advisories

OpenClaw (formerly Moltbot and Clawdbot) has published advisories for its gateway. Each of them is either the subject of a
regression test here, or about something that this gateway does not have.

| Advisory | Weakness | Tests, or why it does not apply |
|---|---|---|
";

const FINDINGS_HEAD: &str = "
## Found by our own attack, 2026-11

Each of these tests failed before the weakness was mended.

| Weakness | Tests |
|---|---|
";
