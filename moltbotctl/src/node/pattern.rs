//! Patterns of programs' paths.

use std::path::Path;

/// Matches a path: `*` within a folder, `**` across folders, `?` one character.
/// A pattern without a folder matches nothing: a name alone does not say which
/// program is meant.
pub(super) fn matches(pattern: &str, path: &str, home: Option<&Path>) -> bool {
    let pattern = pattern.trim();
    if !pattern.contains('/') {
        return false;
    }
    let pattern = crate::paths::expand(pattern, home).to_string_lossy().into_owned();
    let pattern: Vec<char> = pattern.chars().collect();
    let path: Vec<char> = path.chars().collect();
    glob(&pattern, &path)
}

/// Keeps the set of reachable pattern positions, so no pattern takes long.
fn glob(pattern: &[char], path: &[char]) -> bool {
    let mut reachable = vec![false; pattern.len() + 1];
    reachable[0] = true;
    skip_stars(pattern, &mut reachable);
    for &c in path {
        let mut next = vec![false; pattern.len() + 1];
        for at in (0..pattern.len()).filter(|&at| reachable[at]) {
            match pattern[at] {
                '*' => {
                    let across =
                        pattern.get(at + 1) == Some(&'*') || (at > 0 && pattern[at - 1] == '*');
                    next[at] |= across || c != '/';
                }
                '?' => next[at + 1] |= c != '/',
                literal => next[at + 1] |= literal == c,
            }
        }
        skip_stars(pattern, &mut next);
        reachable = next;
    }
    reachable[pattern.len()]
}

fn skip_stars(pattern: &[char], reachable: &mut [bool]) {
    for at in 0..pattern.len() {
        if pattern[at] == '*' && reachable[at] {
            reachable[at + 1] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_paths() {
        let home = Some(Path::new("/home/a"));
        let matches = |pattern, path| matches(pattern, path, home);
        assert!(matches("/usr/bin/git", "/usr/bin/git"));
        assert!(matches("/usr/*/git", "/usr/bin/git"));
        assert!(matches("/usr/**", "/usr/local/bin/git"));
        assert!(matches("/usr/**/git", "/usr/local/bin/git"));
        assert!(matches("~/bin/?", "/home/a/bin/x"));
        for (pattern, path) in [
            ("git", "/usr/bin/git"),
            ("/usr/bin/git", "/usr/bin/gitk"),
            ("/usr/*", "/usr/bin/git"),
            ("/usr/bin/?", "/usr/bin/git"),
            ("", ""),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
    }
}
