//! The daemon's flags.

use std::{path::PathBuf, str::FromStr};

use clap::{Parser, Subcommand};

use crate::{
    config::{Bind, Config, GivenToken, LogLevel, Mode, TailscaleMode},
    environment::Environment,
    logging::LogFormat,
    paths::{self, Choice},
    state::StateArgs,
};

/// The Moltbot gateway: owns an assistant's sessions, channels and nodes, and
/// serves its clients. Without a command it runs in the foreground until it is
/// told to stop.
#[derive(Clone, Debug, Parser)]
#[command(name = "moltbotd", version, after_help = AFTER_HELP, disable_help_subcommand = true)]
pub struct Cli {
    /// Name of this instance, part of its paths [env: MOLTBOT_PROFILE]
    #[arg(long, global = true, value_name = "NAME", value_parser = profile)]
    pub profile: Option<String>,
    /// Configuration file [env: MOLTBOT_CONFIG_PATH]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder of the durable state [env: MOLTBOT_STATE_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// TCP port [env: MOLTBOT_GATEWAY_PORT] [default: 18789]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Which addresses to listen on
    #[arg(long, value_name = "MODE")]
    pub bind: Option<Bind>,
    /// Whether Tailscale leads to the gateway
    #[arg(long, value_name = "MODE")]
    pub tailscale: Option<TailscaleMode>,
    /// End that when the gateway stops
    #[arg(long)]
    pub tailscale_reset_on_exit: bool,
    /// Shared token; other users can see it in the process list, so prefer a
    /// file
    #[arg(long, value_name = "T", conflicts_with = "token_file")]
    pub token: Option<String>,
    /// File that holds the shared token
    #[arg(long, value_name = "F")]
    pub token_file: Option<PathBuf>,
    /// Start even where gateway.mode is "remote"
    #[arg(long, global = true)]
    pub allow_unconfigured: bool,
    /// How much is logged
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<LogLevel>,
    /// How it is logged; the journal when it is there, else text
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the program does besides running.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Work on the state: backups, import, check
    State(StateArgs),
    /// Read the configuration as a start would, and say what is wrong with it
    Check,
    /// Tell what a change of the configuration would do: reads the parameters of
    /// the method config.plan and prints its answer
    Plan,
}

const AFTER_HELP: &str = "\
Flags beat the environment, which beats the configuration file; for the shared \
token and password the file beats the environment.

Exit codes: 0 stopped as asked, 1 failed, 64 wrong flags, 69 address in use, \
75 another gateway runs, 77 refused for safety, 78 configuration invalid, \
79 asks to be started again.";

impl Cli {
    /// Returns what was said about paths.
    #[must_use]
    pub fn paths(&self) -> Choice {
        Choice {
            profile: self.profile.clone(),
            config_file: self.config.clone(),
            state_dir: self.state_dir.clone(),
        }
    }

    /// Puts what was said about Tailscale into the configuration.
    #[must_use]
    pub fn over(&self, mut config: Config) -> Config {
        let settings = &mut config.gateway.tailscale;
        settings.mode = self.tailscale.unwrap_or(settings.mode);
        settings.reset_on_exit |= self.tailscale_reset_on_exit;
        config
    }

    /// Returns why no gateway is to run with a configuration: this host is
    /// another one's client.
    #[must_use]
    pub fn elsewhere(&self, config: &Config) -> Option<String> {
        if self.allow_unconfigured || config.gateway.mode != Some(Mode::Remote) {
            return None;
        }
        let remote = &config.gateway.remote;
        let place = remote.ssh_target.as_ref().or(remote.url.as_ref());
        let place = place.map_or_else(|| "on another host".into(), |place| format!("at {place}"));
        Some(format!(
            "gateway.mode is \"remote\": commands of this host go to the gateway {place}, and none \
             runs here; to run one here: moltbotctl config set gateway.mode local, or \
             --allow-unconfigured for once"
        ))
    }

    /// Returns what was said about the shared token.
    #[must_use]
    pub fn given_token(&self) -> GivenToken {
        GivenToken { token: self.token.clone(), file: self.token_file.clone() }
    }

    /// Returns the port: flag, environment, configuration.
    pub fn port(&self, environment: &Environment, config: &Config) -> Result<u16, String> {
        if let Some(port) = self.port {
            return Ok(port);
        }
        let Some((name, text)) =
            environment.first(&["MOLTBOT_GATEWAY_PORT", "CLAWDBOT_GATEWAY_PORT"])
        else {
            return Ok(config.gateway.port);
        };
        match u16::from_str(text.trim()) {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(format!("{name} is {text:?}, which is no port; use 1 to 65535")),
        }
    }

    /// Returns which addresses to listen on: flag, configuration.
    #[must_use]
    pub fn bind(&self, config: &Config) -> Bind {
        self.bind.unwrap_or(config.gateway.bind)
    }
}

fn profile(name: &str) -> Result<String, paths::PathsError> {
    paths::parse_profile(name).map(|parsed| parsed.unwrap_or_else(|| "default".into()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_is_taken() {
        let line = "moltbotd --profile a --config c --state-dir s --port 1 --bind lan \
                    --token-file f --log debug --log-format json";
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        assert_eq!(cli.bind, Some(Bind::Lan));
        assert_eq!(cli.log, Some(LogLevel::Debug));
        assert_eq!(cli.log_format, Some(LogFormat::Json));
        for wrong in ["--profile A_B", "--port 0", "--bind wifi", "--token a --token-file b", "run"]
        {
            let line = format!("moltbotd {wrong}");
            assert!(Cli::try_parse_from(line.split_whitespace()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_host_that_is_another_gateways_client_runs_none_unless_told_to() {
        let mut config = Config::default();
        let start = |flags: &[&str], config: &Config| {
            Cli::parse_from([&["moltbotd"], flags].concat()).elsewhere(config)
        };
        assert_eq!(start(&[], &config), None);
        config.gateway.mode = Some(Mode::Local);
        assert_eq!(start(&[], &config), None);
        config.gateway.mode = Some(Mode::Remote);
        config.gateway.remote.ssh_target = Some("me@far".into());
        assert!(start(&[], &config).unwrap().contains("the gateway at me@far"));
        assert_eq!(start(&["--allow-unconfigured"], &config), None);
    }

    #[test]
    fn the_port_is_that_of_flag_environment_configuration_in_this_order() {
        let cli = Cli::parse_from(["moltbotd"]);
        let config = Config::default();
        assert_eq!(cli.port(&Environment::default(), &config), Ok(18789));
        let environment = Environment::from([("CLAWDBOT_GATEWAY_PORT", "20001")]);
        assert_eq!(cli.port(&environment, &config), Ok(20001));
        let wrong = Environment::from([("MOLTBOT_GATEWAY_PORT", "0")]);
        assert!(cli.port(&wrong, &config).is_err());
        let cli = Cli::parse_from(["moltbotd", "--port", "20002"]);
        assert_eq!(cli.port(&wrong, &config), Ok(20002));
    }
}
