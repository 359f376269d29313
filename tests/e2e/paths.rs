//! The daemon and its client look for each other in the same places.

use std::path::Path;

use moltbotctl::{environment as ctl_environment, paths as ctl};
use moltbotd::{
    environment::Environment,
    paths::{Choice, Paths, UserFolders},
};

#[test]
fn daemon_and_client_agree_on_every_path() {
    let long = format!("/srv/{}", "x".repeat(120));
    let named = ["MOLTBOT_STATE_DIR", "CLAWDBOT_STATE_DIR", "MOLTBOT_CONFIG_PATH"];
    let managed = ["STATE_DIRECTORY", "CONFIGURATION_DIRECTORY", "RUNTIME_DIRECTORY"];
    let none = ("MOLTBOT_PROFILE", "");
    let mut environments = vec![
        [none, none],
        [("MOLTBOT_PROFILE", "work"), none],
        [("CLAWDBOT_PROFILE", "older"), ("MOLTBOT_STATE_DIR", " ~/state ")],
        [("STATE_DIRECTORY", "/var/lib/moltbot:/var/lib/other"), ("MOLTBOT_STATE_DIR", " ")],
        [("STATE_DIRECTORY", "relative"), none],
        [("MOLTBOT_STATE_DIR", &*long), none],
    ];
    for name in named.iter().chain(&managed) {
        environments.push([(*name, "/some/where"), none]);
        environments.push([(*name, "/some/where"), ("MOLTBOT_PROFILE", "work")]);
    }
    for environment in environments {
        for (profile, state_dir) in
            [(None, None), (Some("flag"), None), (Some("default"), Some("/by/flag"))]
        {
            compare(&environment, profile, state_dir);
        }
    }
}

fn compare(environment: &[(&str, &str); 2], profile: Option<&str>, state_dir: Option<&str>) {
    let choice = Choice {
        profile: profile.map(Into::into),
        config_file: None,
        state_dir: state_dir.map(Into::into),
    };
    let user = UserFolders::of_this_user();
    let daemon = Paths::resolve(&choice, &Environment::from(*environment), user.as_ref()).unwrap();
    let choices = ctl::Choices { profile, config: None, state_dir: state_dir.map(Path::new) };
    let client =
        ctl::Paths::resolve(&choices, &ctl_environment::Environment::from(*environment)).unwrap();
    let context = format!("{environment:?} {profile:?} {state_dir:?}");
    assert_eq!(daemon.profile, client.profile, "{context}");
    assert_eq!(daemon.config_file, client.config_file, "{context}");
    assert_eq!(daemon.state_dir, client.state_dir, "{context}");
    assert_eq!(daemon.runtime_dir, client.runtime_dir, "{context}");
    assert_eq!(daemon.generated_token(), client.generated_token(), "{context}");
}
